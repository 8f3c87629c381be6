"""Scheduler that plays many episodes concurrently.

Each episode advances as soon as its reply arrives, which keeps the speakers' slots full until few episodes are left.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from socialr1_jax.evaluation.request import Messages
from socialr1_jax.evaluation.rows import JsonRow, RowFile, read_rows
from socialr1_jax.evaluation.sotopia.episode import ACTIONS, Episode, Setting, Turn, Utterance
from socialr1_jax.evaluation.task import BenchmarkError

WAIT = 1.0  # longest poll in seconds if no other speaker has work
SHORT_WAIT = 0.01  # if another one has


class Speaker(Protocol):
    """A model that answers turns, used from one thread; replies are reproducible as far as the model allows."""

    @property
    def slots(self) -> int:
        """Return the number of turns processed at once; further turns wait."""

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        """Enqueue a turn without blocking; `key` is unique among unanswered turns."""

    def poll(self, wait: float) -> list[tuple[str, Utterance]]:
        """Return (key, reply) for replies finished since the last call, perhaps none; every turn is answered once.

        A local engine moves waiting turns into free slots, then decodes one segment. An endpoint waits up to `wait`
        seconds for a reply. Call it only while turns are unanswered.
        """


Call = tuple[Speaker, str, Messages, int]  # speaker, turn key, prompt, seed


class Played(NamedTuple):
    """Finished episodes by key, of this and earlier calls; `failed`: why others failed. The next call replays those."""

    episodes: Mapping[str, JsonRow]
    failed: Mapping[str, str]


def play(
    settings: Sequence[Setting],
    tested: Speaker,
    partner: Speaker,
    file: Path,
    *,
    run: str,
    on_end: Callable[[JsonRow], None] = lambda _: None,
) -> Played:
    """Play the episodes that are missing in `file`, and append each one when it ends.

    run: `run_id` of the players. on_end: called with each new row. An episode is abandoned and reported in `failed` if
    a reply is an error. Raises BenchmarkError if the file has episodes of another run.
    """
    speakers = (tested, partner)
    failed: dict[str, str] = {}
    with RowFile(file, is_episode) as rows:
        if other := next((row for row in rows.known if row["run"] != run), None):
            raise BenchmarkError(
                f"{file} has episodes of another model, partner or setting (run {other['run']}, this is {run}): "
                "choose another output folder"
            )
        known = {row["key"]: row for row in rows.known}
        waiting = deque(s for key, s in {s.key: s for s in settings}.items() if key not in known)
        open_: dict[str, Episode] = {}  # by key of the pending turn

        def go_on(episode: Episode) -> list[Call]:
            if not episode.ended:
                open_[episode.turn_key] = episode
                speaker = speakers[episode.agent != episode.setting.tested]
                return [(speaker, episode.turn_key, episode.messages(), episode.seed())]
            row = episode.row(run)
            rows.append(row)
            known[row["key"]] = row
            on_end(row)
            return []

        def take(key: str, reply: Utterance) -> list[Call]:
            episode = open_.pop(key)
            if reply.error:
                failed[episode.setting.key] = f"turn {len(episode.turns)}: {reply.error}"
                return []
            return go_on(episode.after(reply))

        feed(speakers, lambda: go_on(Episode(waiting.popleft())) if waiting else None, take)
    wanted = {setting.key for setting in settings}
    return Played({key: row for key, row in known.items() if key in wanted}, failed)


def feed(
    speakers: Sequence[Speaker],
    begin: Callable[[], list[Call] | None],
    take: Callable[[str, Utterance], list[Call]],
) -> None:
    """Run chains of turns until all are finished, at once twice as many as the speakers have slots.

    Only one agent of an episode speaks at a time, so half of the chains would leave slots empty.

    begin: returns the first turn of a new chain, None if there are no more. take: returns the turns that follow a
    reply, none or one. Raises RuntimeError if a speaker answers a turn that is not pending.
    """
    distinct = list({id(speaker): speaker for speaker in speakers}.values())
    in_hand: dict[int, set[str]] = {id(speaker): set() for speaker in distinct}
    most = 2 * sum(speaker.slots for speaker in distinct)

    def ask(turns: list[Call]) -> None:
        for speaker, key, messages, seed in turns:
            in_hand[id(speaker)].add(key)
            speaker.submit(key, messages, seed)

    more = True
    while True:
        while more and sum(map(len, in_hand.values())) < most:
            first = begin()
            more = first is not None
            ask(first or [])
        busy = [speaker for speaker in distinct if in_hand[id(speaker)]]
        if not busy:
            return
        for speaker in busy:
            for key, reply in speaker.poll(WAIT if len(busy) == 1 else SHORT_WAIT):
                if key not in in_hand[id(speaker)]:
                    raise RuntimeError(f"a speaker answered {key}, which is not pending")
                in_hand[id(speaker)].remove(key)
                ask(take(key, reply))


def read_episodes(file: Path) -> dict[str, JsonRow]:
    return {row["key"]: row for row in read_rows(file, is_episode)}


def is_episode(row: Any) -> bool:
    """Return whether a row is an episode written by `Episode.row`."""
    try:
        turns = [Turn(**turn) for turn in row["turns"]]
        right = all(
            turn.action in ACTIONS and turn.agent == i % 2 and isinstance(turn.argument, str)
            for i, turn in enumerate(turns)
        )
        return right and all(isinstance(row[name], str) for name in ("key", "run", "ended")) and bool(row["ended"])
    except (TypeError, KeyError):
        return False
