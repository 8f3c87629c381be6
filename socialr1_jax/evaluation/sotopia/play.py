"""Many episodes at once, each as far as its replies have come.

Whenever a reply arrives its episode goes on at once, so that a speaker always has turns to take into slots that are
free, until too few episodes are left.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from socialr1_jax.evaluation.request import Messages
from socialr1_jax.evaluation.rows import JsonRow, RowFile, read_rows
from socialr1_jax.evaluation.sotopia.episode import ACTIONS, Episode, Setting, Turn, Utterance
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.runtime.interrupt import NEVER, Interrupted, Stop

WAIT = 1.0  # seconds that a speaker may wait for a reply when no other has work
SHORT_WAIT = 0.01  # when another one has


class Speaker(Protocol):
    """A model that answers turns, from one thread. The same messages and seed give the same reply as far as it can."""

    @property
    def slots(self) -> int:
        """Return how many turns it works on at once; more of them wait."""

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        """Takes a turn and returns at once; `key` is unique among those not yet answered."""

    def poll(self, wait: float) -> list[tuple[str, Utterance]]:
        """The replies that ended since the last call, (key, reply); every turn is answered once.

        A local engine first puts waiting turns into free slots, then decodes one segment. An endpoint waits until a
        reply is there, `wait` seconds at most. Either may return none. Called only while turns are unanswered.
        """


Call = tuple[Speaker, str, Messages, int]  # who is asked, the turn's key, the prompt, the seed


class Played(NamedTuple):
    """episodes: finished ones by key, of this call and of earlier ones. failed: why an episode could not be finished;
    the next call plays it again.
    """

    episodes: Mapping[str, JsonRow]
    failed: Mapping[str, str]


def play(
    settings: Sequence[Setting],
    tested: Speaker,
    partner: Speaker,
    file: Path,
    *,
    run: str,
    at_once: int | None = None,
    on_end: Callable[[JsonRow], None] = lambda _: None,
    stop: Stop = NEVER,
) -> Played:
    """Plays what `file` does not have yet, and appends every episode as it ends.

    run: `run_id` of who plays. at_once: episodes that are open at a time; None is twice as many as the slots of both
    speakers (one, where the model plays itself), since while one agent of an episode speaks the other has none.
    on_end: called with each new row. An episode with a reply that is an error is given up and reported.

    Raises BenchmarkError when the file has episodes of another run, and Interrupted when `stop` is asked.
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
        waiting = deque(one for key, one in {one.key: one for one in settings}.items() if key not in known)
        open_: dict[str, Episode] = {}  # by the key of the turn that is asked

        def go_on(episode: Episode) -> list[Call]:
            if not episode.ended:
                open_[episode.turn_key] = episode
                speaker = speakers[episode.agent != episode.setting.tested]
                return [(speaker, episode.turn_key, episode.messages(), episode.seed())]
            row = episode.row(run)
            rows.add(row)
            known[row["key"]] = row
            on_end(row)
            return []

        def take(key: str, reply: Utterance) -> list[Call]:
            episode = open_.pop(key)
            if reply.error:
                failed[episode.setting.key] = f"turn {len(episode.turns)}: {reply.error}"
                return []
            return go_on(episode.after(reply))

        feed(
            speakers,
            lambda: go_on(Episode(waiting.popleft())) if waiting else None,
            take,
            at_once=at_once or 2 * _slots(speakers),
            stop=stop,
        )
    wanted = {setting.key for setting in settings}
    return Played({key: row for key, row in known.items() if key in wanted}, failed)


def feed(
    speakers: Sequence[Speaker],
    begin: Callable[[], list[Call] | None],
    take: Callable[[str, Utterance], list[Call]],
    *,
    at_once: int,
    stop: Stop,
) -> None:
    """Keeps `at_once` chains of turns going. begin: the first turn of another chain, None when there are no more.
    take: the turns that a reply to a turn leads to, none or one. Raises RuntimeError for a speaker that answers a turn
    that was not asked.
    """
    distinct = list({id(speaker): speaker for speaker in speakers}.values())
    in_hand: dict[int, set[str]] = {id(speaker): set() for speaker in distinct}

    def ask(turns: list[Call]) -> None:
        for speaker, key, messages, seed in turns:
            in_hand[id(speaker)].add(key)
            speaker.submit(key, messages, seed)

    more = True
    while True:
        if stop.asked:
            raise Interrupted
        while more and sum(map(len, in_hand.values())) < at_once:
            begun = begin()
            more = begun is not None
            ask(begun or [])
        busy = [speaker for speaker in distinct if in_hand[id(speaker)]]
        if not busy:
            return
        for speaker in busy:
            for key, reply in speaker.poll(WAIT if len(busy) == 1 else SHORT_WAIT):
                if key not in in_hand[id(speaker)]:
                    raise RuntimeError(f"a speaker answered {key}, which it was not asked or had answered")
                in_hand[id(speaker)].remove(key)
                ask(take(key, reply))


def read_episodes(file: Path) -> dict[str, JsonRow]:
    """The finished episodes of a file by key."""
    return {row["key"]: row for row in read_rows(file, is_episode)}


def is_episode(row: Any) -> bool:
    """Return whether a line of a file is an episode that `Episode.row` has written."""
    try:
        turns = [Turn(**turn) for turn in row["turns"]]
        right = all(
            turn.action in ACTIONS and turn.agent == i % 2 and isinstance(turn.argument, str)
            for i, turn in enumerate(turns)
        )
        return right and all(isinstance(row[name], str) for name in ("key", "run", "ended")) and bool(row["ended"])
    except (TypeError, KeyError):
        return False


def _slots(speakers: Sequence[Speaker]) -> int:
    return sum(speaker.slots for speaker in {id(speaker): speaker for speaker in speakers}.values())
