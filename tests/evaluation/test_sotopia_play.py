"""SOTOPIA's play: many episodes at once, slots that stay full, and files that are gone on with."""

import json
import random
from collections import Counter, deque

import pytest
from test_sotopia import act, prompt, setting

from socialr1_jax.evaluation.sotopia.episode import Episode, Utterance, seed_of
from socialr1_jax.evaluation.sotopia.play import play, read_episodes
from socialr1_jax.evaluation.task import BenchmarkError

SETTINGS = [setting(tested=tested, number=number) for number in range(6) for tested in (0, 1)]


def drawn(messages, seed):
    """A reply that depends on prompt and seed alone, as a model's does."""
    draw = random.Random(f"{seed} {messages[-1]['content']}")
    kind = draw.choices(["speak", "action", "none", "leave", "bad"], [60, 15, 10, 5, 10])[0]
    return Utterance("not JSON") if kind == "bad" else act(kind, f"word {draw.randrange(1000)}")


class Scripted:
    """Answers in an order of its own, a few at a time. most: replies until it raises, as a kill would."""

    def __init__(self, reply=drawn, slots=4, most=10**9, order=0):
        self.slots, self.reply, self.most, self.waiting, self.asked = slots, reply, most, [], Counter()
        self.draw = random.Random(order)

    def submit(self, key, messages, seed):
        self.asked[key] += 1
        self.waiting.append((key, messages, seed))

    def poll(self, wait):
        assert self.waiting
        self.draw.shuffle(self.waiting)
        out = []
        for _ in range(self.draw.randint(0, min(self.slots, len(self.waiting)))):
            if self.most == 0:
                raise KeyboardInterrupt
            self.most -= 1
            key, messages, seed = self.waiting.pop()
            out.append((key, self.reply(messages, seed)))
        return out


def lines(file):
    return sorted(file.read_text().splitlines())


def test_every_episode_is_what_its_replies_make_it(tmp_path):
    """In any order and with any number at once: the same rows as one episode after the other."""
    expected = []
    for one in SETTINGS:
        episode = Episode(one)
        while not episode.ended:
            episode = episode.after(drawn(episode.messages(), episode.seed()))
        expected.append(json.dumps(episode.row("r")))
    for i, slots in enumerate((1, 2, 4)):
        file = tmp_path / f"{i}.jsonl"
        ended = []
        tested, partner = Scripted(slots=slots, order=i), Scripted(slots=slots, order=i + 10)
        found = play(SETTINGS, tested, partner, file, run="r", on_end=ended.append)
        assert lines(file) == sorted(expected)
        assert found.episodes == read_episodes(file)
        assert len(ended) == 12
        assert not found.failed
        assert set((tested.asked + partner.asked).values()) == {1}


def test_each_model_is_asked_for_its_own_turns(tmp_path):
    asked = {"tested": [], "partner": []}

    def speaker(name):
        def reply(messages, seed):
            asked[name].append(messages[-1]["content"].split("\n")[0])
            return act()

        return Scripted(reply)

    play([setting(tested=1)], speaker("tested"), speaker("partner"), tmp_path / "a.jsonl", run="r")
    assert (len(asked["tested"]), len(asked["partner"])) == (10, 10)
    assert all(line.startswith("You are Bo Stone.") for line in asked["tested"])
    assert all(line.startswith("You are Ada Stone.") for line in asked["partner"])


def test_a_model_plays_itself(tmp_path):
    one = Scripted()
    play(SETTINGS, one, one, tmp_path / "a.jsonl", run="r")
    play(SETTINGS, Scripted(), Scripted(), tmp_path / "b.jsonl", run="r")
    assert lines(tmp_path / "a.jsonl") == lines(tmp_path / "b.jsonl")


@pytest.mark.parametrize("most", [0, 1, 7, 30, 60])
def test_killed_at_any_reply_it_goes_on(tmp_path, most):
    whole, file = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    play(SETTINGS, Scripted(), Scripted(), whole, run="r")
    before = set()
    for order in range(40):  # killed again and again
        again = Scripted(most=most + 3 * order, order=order), Scripted(order=order)
        try:
            play(SETTINGS, *again, file, run="r")
            break
        except KeyboardInterrupt:
            pass
        finally:
            keys = {key.partition("#")[0] for speaker in again for key in speaker.asked}
            assert not keys & before  # what is finished is not asked again
            before = set(read_episodes(file))
    assert lines(file) == lines(whole)
    nobody = Scripted(most=0)
    assert play(SETTINGS, nobody, nobody, file, run="r").episodes.keys() == before | set(read_episodes(whole))
    assert not nobody.asked


def test_cut_anywhere_the_file_is_mended(tmp_path):
    whole, file = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    play(SETTINGS[:3], Scripted(), Scripted(), whole, run="r")
    content = whole.read_bytes()
    draw = random.Random(0)
    for at in sorted({0, 1, len(content) - 1, *draw.sample(range(len(content)), 25)}):
        file.write_bytes(content[:at])
        tested = Scripted()
        play(SETTINGS[:3], tested, tested, file, run="r")
        assert lines(file) == lines(whole)
        assert len({key.partition("#")[0] for key in tested.asked}) == 3 - content[:at].count(b"\n")


def test_lines_that_are_no_episodes_do_not_count(tmp_path, caplog):
    whole, file = tmp_path / "whole.jsonl", tmp_path / "bad.jsonl"
    play(SETTINGS[:3], Scripted(), Scripted(), whole, run="r")
    first, *rest = whole.read_text().splitlines()
    odd = json.dumps(json.loads(first) | {"turns": [{"agent": 5}]})
    file.write_text("\n".join(["{torn", odd, "[]", "\x00", *rest]) + "\n")
    found = play(SETTINGS[:3], Scripted(), Scripted(), file, run="r")
    assert found.episodes == read_episodes(whole)
    assert caplog.text.count("is invalid and is ignored") == 4


def test_another_run_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    play(SETTINGS[:2], Scripted(), Scripted(), file, run="r")
    content = file.read_bytes()
    with pytest.raises(BenchmarkError, match=r"episodes of another model.* choose another output"):
        play(SETTINGS, Scripted(), Scripted(), file, run="s")
    assert file.read_bytes() == content


def test_a_set_goes_on_as_a_larger_one(tmp_path):
    file = tmp_path / "a.jsonl"
    assert play(SETTINGS[:4], Scripted(), Scripted(), file, run="r").episodes.keys() == {x.key for x in SETTINGS[:4]}
    play(SETTINGS, Scripted(), Scripted(), file, run="r")
    assert len(lines(file)) == 12
    assert len(play(SETTINGS[2:5], Scripted(), Scripted(), file, run="r").episodes) == 3
    assert len(play([SETTINGS[0]] * 3, Scripted(), Scripted(), tmp_path / "b.jsonl", run="r").episodes) == 1


def test_episode_with_an_error_is_played_again(tmp_path):
    """A server that is gone for one prompt: the others end, and the rerun has the same rows as without a fault."""
    file, whole = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    play(SETTINGS, Scripted(), Scripted(), whole, run="r")
    hit = SETTINGS[4].key

    def faulty(messages, seed):
        return Utterance("", error="http_500") if seed == seed_of(f"{hit}#0") else drawn(messages, seed)

    found = play(SETTINGS, Scripted(faulty), Scripted(faulty), file, run="r")
    assert found.failed == {hit: "turn 0: http_500"}
    assert found.episodes.keys() == {one.key for one in SETTINGS} - {hit}
    assert not play(SETTINGS, Scripted(), Scripted(), file, run="r").failed
    assert lines(file) == lines(whole)


def test_a_speaker_that_answers_what_was_not_asked(tmp_path):
    class Odd(Scripted):
        def poll(self, wait):
            return [("else", act())]

    with pytest.raises(RuntimeError, match="answered else, which is not pending"):
        play(SETTINGS, Odd(), Odd(), tmp_path / "a.jsonl", run="r")


# -------------------------------------------------------------------------------------------------- slots that are full


class Engine:
    """An engine of `slots` rows: a poll puts waiting turns into free rows and decodes one segment. A reply takes one to
    eight segments. busy: the share of rows that each segment had work for, until the last episode was begun.
    """

    def __init__(self, slots=64):
        self.slots, self.waiting, self.rows, self.all, self.begun = slots, deque(), [], [], 0

    def submit(self, key, messages, seed):
        if key.endswith("#0"):
            self.begun = len(self.all)
        self.waiting.append((key, random.Random(seed).randint(1, 8), messages, seed))

    def poll(self, wait):
        while self.waiting and len(self.rows) < self.slots:
            self.rows.append(list(self.waiting.popleft()))
        self.all.append(len(self.rows) / self.slots)
        for row in self.rows:
            row[1] -= 1
        ended = [row for row in self.rows if row[1] == 0]
        self.rows = [row for row in self.rows if row[1]]
        return [(key, drawn(messages, seed)) for key, _, messages, seed in ended]

    @property
    def busy(self):
        return self.all[: self.begun]


def mean(values):
    return sum(values) / len(values)


class Waves:
    """A speaker made of a function over a batch: what waits when a wave ends is the next wave."""

    def __init__(self, speak, slots):
        self.slots, self._speak, self._waiting, self._asked, self._wave = slots, speak, [], {}, iter(())

    def submit(self, key, messages, seed):
        self._waiting.append((key, messages, seed))

    def poll(self, wait):
        if not self._asked and self._waiting:
            keys, messages, seeds = zip(*self._waiting, strict=True)
            self._waiting, self._asked = [], dict(enumerate(keys))
            self._wave = iter(self._speak(messages, seeds))
        index, reply = next(self._wave)
        return [(self._asked.pop(index), reply)]


def in_waves(engine):
    """The same engine as a function over a batch."""

    def speak(prompts, seeds):
        for i, (messages, seed) in enumerate(zip(prompts, seeds, strict=True)):
            engine.submit(f"{i}{'#0' if 'it is turn #0' in messages[0]['content'] else ''}", messages, seed)
        while engine.waiting or engine.rows:
            yield from ((int(key.removesuffix("#0")), reply) for key, reply in engine.poll(0))

    return Waves(speak, engine.slots)


def test_slots_stay_full(tmp_path):
    many = [setting(tested=tested, number=number) for number in range(150) for tested in (0, 1)]
    alone, waved = Engine(), Engine()
    play(many, alone, alone, tmp_path / "a.jsonl", run="r")
    wave = in_waves(waved)
    play(many, wave, wave, tmp_path / "w.jsonl", run="r")
    tested, partner = Engine(), Engine()
    play(many, tested, partner, tmp_path / "b.jsonl", run="r")
    assert mean(alone.busy) > 0.99
    assert min(mean(tested.busy), mean(partner.busy)) > 0.8
    assert mean(waved.busy) < 0.8
    assert lines(tmp_path / "a.jsonl") == lines(tmp_path / "b.jsonl") == lines(tmp_path / "w.jsonl")


def test_slots_stay_full_beside_a_slow_endpoint(tmp_path):
    """A partner whose replies take as long as sixteen segments."""
    many = [setting(tested=tested, number=number) for number in range(150) for tested in (0, 1)]

    class Endpoint(Engine):
        def submit(self, key, messages, seed):
            self.waiting.append((key, 16, messages, seed))

    tested, partner = Engine(slots=16), Endpoint(slots=64)
    play(many, tested, partner, tmp_path / "a.jsonl", run="r")
    assert mean(tested.busy) > 0.8


def test_prompts_of_an_episode_grow_at_their_end():
    """So that what two turns of an agent have in common is a beginning, which an engine can compute once."""
    one = setting()
    early, late = (prompt(Episode(one, tuple(Episode(one).after(act()).turns * n))) for n in (2, 4))
    shared = early.partition("You are Ada Stone, and it is turn")[0].rstrip()
    assert late.startswith(shared)
