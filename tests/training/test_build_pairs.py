"""scripts/build_pairs.py: thoughts to segments, scores and pairs, against hand-made scores and runs without a cut."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
import sys
import zlib
from concurrent.futures import Future
from itertools import product
from pathlib import Path

import jax
import pytest
from toys import ONE_LAYER

from socialr1_jax import Qwen3, Qwen3Config, SamplingParams, load_hf, save_hf
from socialr1_jax.config import stories as story_config
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.pairs import MatchingConfig, PairsConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data import pairs as pairs_module
from socialr1_jax.data.pairs import STAGES, ScoredText, match_pairs, read_pairs
from socialr1_jax.data.prompts import encode_prompt, question_text
from socialr1_jax.data.tables import DataError
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.rewards import judge_thoughts
from socialr1_jax.rewards.rubric import RUBRIC_VERSION
from socialr1_jax.rewards.verdict import JudgeRefused, Verdict
from socialr1_jax.runtime.mesh import make_mesh, mesh_of
from socialr1_jax.sampling import Engine
from socialr1_jax.stories.corruptions import KINDS, corruption_pairs
from socialr1_jax.stories.stories import generate_stories
from socialr1_jax.training import build_pairs as module
from socialr1_jax.training import pair_scores, pair_work_file
from socialr1_jax.training.pair_scores import segments

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_pairs.py"
DRAWN = ("sampling.group_size=4", "sampling.max_new_tokens=8")  # one size for all, so that it is compiled once
ENDPOINT = ("structure.judge=endpoint", "structure.model=m", "structure.base_url=http://localhost:1/v1")


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("build_pairs_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.main


@pytest.fixture(scope="module")
def stories():
    return generate_stories(6, seed=3, question_types=["belief"], options=3, max_events=6)


@pytest.fixture(scope="module")
def thoughts(stories):
    """Per question: the reference, and the reference made worse in five ways, with one text twice."""
    worse = {story.id: [story.thoughts] for story in stories}
    for pair in corruption_pairs(stories, seed=0):
        worse[pair.meta["story_id"]].append(pair.rejected)
    return {story.id: [*worse[story.id], story.thoughts] for story in stories}


@pytest.fixture
def responses(stories, thoughts, tmp_path):
    """A file of responses, the questions' rows mixed; the last row has no thoughts."""
    rows = [
        {
            "id": s.id,
            "story": s.story,
            "question": s.question,
            "options": list(s.options),
            "answer": s.answer,
            "response": f"<think>\n{thoughts[s.id][n]}\n</think>\n\n<Answer>A</Answer>",
        }
        for n in range(7)
        for s in stories
    ]
    file = tmp_path / "responses.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0] | {"response": "A"}]), encoding="utf-8")
    return file


class StandIn:
    """A judge by a function of the thoughts, that counts what it is asked and gives its verdicts late."""

    def __init__(self, say):
        self.say, self.asked, self.open, self.closed = say, [], [], False

    def submit(self, story, question, thoughts):
        self.asked.append((story, question, thoughts))
        self.open.append((Future(), thoughts))
        return self.open[-1][0]

    def finish(self, stop=None):
        for future, thoughts in self.open:
            verdict = self.say(thoughts)
            future.set_exception(verdict) if isinstance(verdict, Exception) else future.set_result(verdict)
        self.open = []

    def close(self):
        self.closed = True


@pytest.fixture
def judged_by(monkeypatch):
    """Puts a stand-in in the place of the judge that the settings name, and gives it."""

    def put(say):
        judge = StandIn(say)
        monkeypatch.setattr("socialr1_jax.rewards.judges.make_judge", lambda config: judge)
        return judge

    return put


def by_hash(text: str, salt: str = "") -> float:
    return zlib.crc32((salt + text).encode()) % 11 / 10


def with_stages(text: str) -> Verdict:
    return Verdict(by_hash(text), stages={stage: by_hash(text, stage) for stage in STAGES})


# --- segments and pairs


def test_segments_are_the_words_of_each_stage():
    text = "Encode: Anna left. Ben moved it.\nInterpret: She thinks box.\nGoal: Where she looks.\nRespond: So it is A."
    assert segments(text) == {
        "encode": "Anna left. Ben moved it.",
        "interpret": "She thinks box.",
        "goal": "Where she looks.",
        "respond": "So it is A.",
    }
    back = "Goal: say where.\nEncode: Anna left.\nGoal: once more.\nInterpret:\n"
    assert segments(back) == {"encode": "Anna left.", "goal": "say where.\nonce more."}
    assert segments("Anna left the room. So she thinks that it is there. So the answer is B.") == {
        "encode": "Anna left the room.",
        "interpret": "So she thinks that it is there.",
        "respond": "So the answer is B.",
    }
    assert segments("Hm.") == {}


def scored(*texts: tuple[str, str, float]) -> list[ScoredText]:
    return [ScoredText(sample=i, stage=s, text=t, score=x, scored="whole") for i, (s, t, x) in enumerate(texts)]


def matched(texts: list[ScoredText], seed: int = 0, **settings):
    return match_pairs(texts, MatchingConfig(**settings), "q", "Anna left.", "Where?", seed, {"judge": "hand"})


def test_gap_length_stage_and_sameness():
    texts = scored(
        ("", "aaaa aaaa", 0.9),
        ("", "aaaa  aaaa", 0.1),
        ("", "bbbb bbbb", 0.7),
        ("", "cccccccccccccccc", 0.5),
        ("goal", "dddd dddd", 0.0),
        ("goal", "eeee eeee", 0.25),
    )
    pairs = matched(texts, min_gap=0.2, max_length_ratio=1.5, per_question=99)
    # 0 > 1 is the same text; 3 is too long for 0, 1 and 2; 4 and 5 are of another unit.
    assert [(p.stage, p.chosen[0], p.rejected[0], p.margin) for p in pairs] == [
        ("", "a", "b", 0.2),
        ("", "b", "a", 0.6),
        ("goal", "e", "d", 0.25),
    ]
    assert [p.id for p in pairs] == ["q-whole-0-2", "q-whole-2-1", "q-goal-5-4"]
    assert pairs[0].meta == {
        "judge": "hand",
        "question_id": "q",
        "scored": "whole",
        "chosen_sample": "0",
        "rejected_sample": "2",
        "chosen_score": "0.9",
        "rejected_score": "0.7",
    }
    assert [p.id for p in matched(texts, min_gap=0.21, max_length_ratio=1.8, per_question=99)] == [
        "q-whole-0-3",
        "q-whole-2-1",
        "q-whole-3-1",
        "q-goal-5-4",
    ]


def test_a_gap_of_the_least_size_counts():
    assert 0.7 - 0.5 < 0.2  # in floating point
    assert len(matched(scored(("", "aaaa", 0.7), ("", "bbbb", 0.5)), min_gap=0.2)) == 1
    assert matched(scored(("", "aaaa", 0.7), ("", "bbbb", 0.501)), min_gap=0.2) == []


def test_longer_and_shorter_rejected_texts_take_turns():
    worse = [("", chr(98 + n) * (9 if n < 4 else 11), 0.1) for n in range(16)]
    pairs = matched(scored(("", "a" * 10, 0.9), *worse), per_question=8)
    assert sorted(len(pair.rejected) for pair in pairs) == [9] * 4 + [11] * 4
    pairs = matched(scored(("", "a" * 10, 0.9), *worse), per_question=12)  # there are only four of the shorter
    assert sorted(len(pair.rejected) for pair in pairs) == [9] * 4 + [11] * 8


def test_against_every_pair_tried_by_hand():
    texts = scored(*((("", "goal")[n % 2], chr(97 + n) * (4 + n % 5), (n * 7 % 10) / 10) for n in range(24)))
    expected = {
        f"q-{a.stage or 'whole'}-{a.sample}-{b.sample}"
        for a, b in product(texts, texts)
        if a.stage == b.stage
        and round(a.score - b.score, 3) >= 0.3
        and len(a.text) <= 1.4 * len(b.text)
        and len(b.text) <= 1.4 * len(a.text)
    }
    every = matched(texts, min_gap=0.3, max_length_ratio=1.4, per_question=999)
    assert {p.id for p in every} == expected
    assert len(every) == len(expected) > 15
    some = matched(texts, min_gap=0.3, max_length_ratio=1.4, per_question=8)
    assert len(some) == 8
    assert {p.id for p in some} < expected
    longer = [(len(p.rejected) > len(p.chosen)) - (len(p.rejected) < len(p.chosen)) for p in some]
    assert abs(sum(longer)) <= 1
    assert some == matched(texts, min_gap=0.3, max_length_ratio=1.4, per_question=8)
    assert some != matched(texts, seed=1, min_gap=0.3, max_length_ratio=1.4, per_question=8)


def test_two_samples_of_one_text_make_one_pair():
    assert len(matched(scored(("", "aaaa", 0.9), ("", "bbbb", 0.1), ("", "aaaa", 0.9), ("", "bbbb ", 0.1)))) == 1


# --- from a file of responses


def test_pairs_of_responses_by_the_rules(main, responses, stories, thoughts, tmp_path, capsys):
    output = tmp_path / "pairs.jsonl"
    assert main(["--source", "responses", "--responses", str(responses), "--output", str(output)]) == 0
    pairs = read_pairs(output)
    said = capsys.readouterr().out
    assert "6 questions, 43 responses, 42 with thoughts, 0 texts unscorable" in said
    assert f"{output}: {len(pairs)} pairs" in said
    assert {pair.meta["question_id"] for pair in pairs} == {story.id for story in stories}
    assert {pair.stage for pair in pairs} >= {"", "encode", "interpret"}
    for pair in pairs:
        story = next(story for story in stories if story.id == pair.meta["question_id"])
        assert (pair.story, pair.question) == (story.story, story.question)
        own, meta = thoughts[story.id], pair.meta  # never the thoughts of another question
        texts = [own[int(meta[f"{side}_sample"])] for side in ("chosen", "rejected")]
        if pair.stage:
            texts = [segments(text)[pair.stage] for text in texts]
        else:
            scores = [judge_thoughts(text).score for text in texts]
            assert [float(meta["chosen_score"]), float(meta["rejected_score"])] == pytest.approx(scores, abs=1e-6)
        assert [pair.chosen, pair.rejected] == texts
        assert pair.margin == pytest.approx(float(meta["chosen_score"]) - float(meta["rejected_score"]), abs=2e-6)
        assert pair.margin >= 0.2 - 1e-6
        assert max(map(len, texts)) <= 1.5 * min(map(len, texts))
        assert {
            "source": "responses",
            "responses": "responses.jsonl",
            "judge": "rules",
            "seed": "0",
        }.items() <= meta.items()
        assert meta["scored"] == ("frame" if pair.stage else "whole")
        assert "rubric" not in meta
    most = max(sum(pair.meta["question_id"] == story.id for pair in pairs) for story in stories)
    assert most == 6


def test_unscored_segment_stands_in_the_best_thoughts(main, tmp_path):
    best = (
        "Encode: Anna put the coin in the drawer. Anna left. Ben moved the coin to the shelf.\n"
        "Interpret: Anna did not see it, so she thinks that the coin is in the drawer.\n"
        "Goal: say where Anna will look for the coin.\nRespond: The drawer fits her view. So the answer is A."
    )
    thin = best.replace("say where Anna will look for the coin.", "one must answer.").replace("fits her view", "fits")
    rows = [
        {"story": "Anna put the coin away.", "question": "Where?", "response": f"<think>{text}</think>"}
        for text in (thin, best)
    ]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "p.jsonl"
    arguments = ["--source", "responses", "--responses", str(tmp_path / "r.jsonl"), "--output", str(output)]
    assert main([*arguments, "matching.unit=stage", "matching.max_length_ratio=9", "matching.min_gap=0.05"]) == 0
    (pair,) = read_pairs(output)  # the respond stages differ too, but by less than the gap
    assert (pair.stage, pair.chosen, pair.rejected) == ("goal", segments(best)["goal"], "one must answer.")
    frame = best.replace("say where Anna will look for the coin.", "one must answer.")
    assert float(pair.meta["chosen_score"]) == pytest.approx(judge_thoughts(best).score, abs=1e-6)
    assert float(pair.meta["rejected_score"]) == pytest.approx(judge_thoughts(frame).score, abs=1e-6)
    assert pair.id == "r-1-goal-1-0"


def test_judge_of_stages_is_asked_once_a_response(main, responses, thoughts, tmp_path, judged_by):
    judge = judged_by(with_stages)
    output = tmp_path / "pairs.parquet"
    arguments = ["--source", "responses", "--responses", str(responses), "--output", str(output), *ENDPOINT]
    assert main(arguments) == 0
    assert {(story, text) for story, _, text in judge.asked} == {
        (pair.story, text) for pair in read_pairs(output) for text in thoughts[pair.meta["question_id"]]
    }
    assert len(judge.asked) == 6 * 6  # one text came twice
    assert judge.closed
    for pair in read_pairs(output):
        own = thoughts[pair.meta["question_id"]]
        texts = [own[int(pair.meta[f"{side}_sample"])] for side in ("chosen", "rejected")]
        scores = [by_hash(text, pair.stage) for text in texts]
        assert [float(pair.meta[f"{side}_score"]) for side in ("chosen", "rejected")] == scores
        assert (pair.meta["judge"], pair.meta["rubric"]) == ("endpoint m", RUBRIC_VERSION)
        assert pair.meta["scored"] == ("stage" if pair.stage else "whole")
    # Once more, and with other matching: nobody is asked again.
    before = output.read_bytes()
    judge.asked.clear()
    assert main(arguments) == 0
    assert (judge.asked, output.read_bytes()) == ([], before)
    assert main([*arguments, "matching.per_question=2"]) == 0
    assert judge.asked == []
    assert len(read_pairs(output)) == 12
    # Another judge is asked about the same responses.
    assert main([*arguments, "structure.model=n"]) == 0
    assert len(judge.asked) == 36


def test_unscorable_is_in_no_pair_and_retried(main, responses, tmp_path, judged_by, capsys):
    def flaky(text):
        return Verdict.unscorable("timeout") if by_hash(text, "x") < 0.3 else with_stages(text)

    judge = judged_by(flaky)
    output = tmp_path / "pairs.jsonl"
    arguments = ["--source", "responses", "--responses", str(responses), "--output", str(output), *ENDPOINT]
    assert main(arguments) == 0
    lost = {(story, text) for story, _, text in judge.asked if math.isnan(flaky(text).score)}
    assert 3 < len(lost) < 33
    assert f"{len(lost)} texts unscorable, timeout {len(lost)}" in capsys.readouterr().out
    assert any(pair.stage == "" for pair in read_pairs(output))
    for pair in read_pairs(output):
        assert not {(pair.story, pair.chosen), (pair.story, pair.rejected)} & lost
    judge.asked.clear()
    judge.say = with_stages
    assert main(arguments) == 0
    assert {(story, text) for story, _, text in judge.asked} == lost
    cut, uncut = output.read_bytes(), tmp_path / "uncut.jsonl"
    assert main([*arguments, "--output", str(uncut)]) == 0
    assert uncut.read_bytes() == cut


def test_refusing_judge_stops_and_keeps_its_verdicts(main, responses, tmp_path, judged_by, capsys):
    judge = judged_by(
        lambda text: JudgeRefused("wrong key in SOME_KEY") if by_hash(text, "y") > 0.8 else with_stages(text)
    )
    output = tmp_path / "pairs.jsonl"
    arguments = ["--source", "responses", "--responses", str(responses), "--output", str(output), *ENDPOINT]
    assert main(arguments) == 2
    assert capsys.readouterr().err == "build_pairs.py: error: wrong key in SOME_KEY\n"
    assert not output.exists()
    assert judge.closed
    judge.say = with_stages
    judge.asked.clear()
    assert main(arguments) == 0
    assert 0 < len(judge.asked) < 20


@pytest.mark.parametrize("say", [lambda text: Verdict(0.5), lambda text: Verdict.unscorable("http_500")])
def test_no_pair_at_all_says_what_to_change(main, responses, tmp_path, judged_by, say, capsys):
    judged_by(say)
    output = tmp_path / "pairs.jsonl"
    assert main(["--source", "responses", "--responses", str(responses), "--output", str(output)]) == 2
    assert "lower matching.min_gap" in capsys.readouterr().err
    assert not output.exists()


# --- cut off and resumed


def test_work_file_cut_anywhere_gives_equal_pairs(main, responses, tmp_path, judged_by):
    judge = judged_by(lambda text: Verdict(judge_thoughts(text).score))
    output, work = tmp_path / "pairs.jsonl", tmp_path / "pairs.jsonl.work"
    arguments = ["--source", "responses", "--responses", str(responses), "--output", str(output)]
    assert main(arguments) == 0
    whole, pairs, asked = work.read_bytes(), output.read_bytes(), len(judge.asked)
    lines = whole.splitlines(keepends=True)
    assert len(lines) == asked + 1
    for size in (0, 5, len(lines[0]), len(lines[0]) + 7, len(whole) // 3, len(whole) // 2 + 1, len(whole) - 1):
        work.write_bytes(whole[:size])
        output.unlink()
        judge.asked.clear()
        assert main(arguments) == 0
        assert output.read_bytes() == pairs
        assert len(judge.asked) == asked - max(0, whole[:size].count(b"\n") - 1)
        assert sorted(work.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("damage", [b'{"judged": "x"}\n', b"[1]\n", b"\xff\n", b'{"sample": 1, "res\n'])
def test_a_damaged_work_file_is_named(main, responses, tmp_path, damage, capsys):
    (tmp_path / "pairs.jsonl.work").write_bytes(b'{"sampled_by": {"source": "responses"}}\n' + damage)
    output = tmp_path / "pairs.jsonl"
    assert main(["--source", "responses", "--responses", str(responses), "--output", str(output)]) == 2
    assert "pairs.jsonl.work row 2: not a line of a work file; remove the file" in capsys.readouterr().err


# --- from a policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory, stories):
    """A random one-layer Qwen3 with a tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = build_tokenizer([question_text(story) for story in stories], 640)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = Qwen3Config(
        vocab_size=640,
        **ONE_LAYER,
        max_position_embeddings=2048,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    save_hf(Qwen3(config, init_params(config, jax.random.key(0)), source=str(folder / "tokenizer")), folder / "hf")
    return folder / "hf"


@pytest.fixture
def questions(stories, tmp_path):
    rows = [
        {"id": s.id, "story": s.story, "question": s.question, "options": list(s.options), "answer": s.answer}
        for s in stories[:4]
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def sampled(monkeypatch):
    """Prompts and ids that engines were asked for; `stop_after` responses, the program is interrupted."""
    asked = {"ids": [], "responses": 0, "stop_after": 10**9}
    completions = Engine.completions

    def spy(engine, prompts, sampling, **arguments):
        asked["ids"] += arguments["prompt_ids"]
        for one in completions(engine, prompts, sampling, **arguments):
            asked["responses"] += 1
            if asked["responses"] > asked["stop_after"]:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(Engine, "completions", spy)
    return asked


@pytest.fixture
def thinking(monkeypatch, stories):
    """Reads the policy's tokens as a trace or one of its five corruptions: what it thinks hangs on them."""
    texts = [p.rejected for p in corruption_pairs(stories[:1], seed=0)] + [stories[0].thoughts]

    def decode(tokenizer, completions):
        picked = [zlib.crc32(str(c.tokens).encode()) for c in completions]
        return [f"<think>{texts[n % 6]} Case {n % 1000}.</think><Answer>A</Answer>" for n in picked]

    monkeypatch.setattr("socialr1_jax.sampling.text.decode_responses", decode)


def samples(work: Path) -> dict[tuple[str, int], str]:
    rows = map(json.loads, work.read_text().splitlines())
    return {(row["question"], row["sample"]): row["response"] for row in rows if "response" in row}


def test_the_responses_are_the_engines(main, policy, questions, stories, tmp_path, capsys):
    """A policy that has learnt nothing has no thoughts, which is told; its responses are kept all the same."""
    output = tmp_path / "pairs.jsonl"
    arguments = ["--policy", str(policy), "--questions", str(questions), "--output", str(output), "--seed", "5"]
    drawn = [*DRAWN, "sampling.temperature=0.8"]
    assert main([*arguments, *drawn]) == 2
    assert "responses has thoughts to compare; take a policy that writes" in capsys.readouterr().err

    from transformers import AutoTokenizer

    from socialr1_jax.sampling.text import decode_responses

    model, tokenizer = load_hf(policy, make_mesh()), AutoTokenizer.from_pretrained(policy)
    engine = Engine(params=model.params, config=model.config, num_tokens=model.num_tokens)
    params = SamplingParams(n=4, max_new_tokens=8, temperature=0.8, seed=5, stop_token_ids=(tokenizer.eos_token_id,))
    found = samples(Path(f"{output}.work"))
    assert len(found) == 16
    keys = [module.question_key(story) for story in stories[:4]]
    prompts = [encode_prompt(tokenizer, story) for story in stories[:4]]
    with jax.set_mesh(mesh_of(model.params)):
        groups = engine.sample(prompts, params, prompt_ids=[int(key[:8], 16) for key in keys])
    for key, group in zip(keys, groups, strict=True):
        assert [found[key, n] for n in range(4)] == decode_responses(tokenizer, group)
    assert len(set(found.values())) == 16


def test_interrupted_build_gives_equal_pairs(main, policy, questions, stories, tmp_path, sampled, thinking, capsys):
    def run(name, *more):
        drawn = [*DRAWN, "matching.max_length_ratio=3"]
        files = ["--policy", str(policy), "--questions", str(questions), "--output", str(tmp_path / name)]
        return main([*files, *drawn, *more])

    assert run("uncut.jsonl") == 0
    assert len(sampled["ids"]) == 4
    pairs = read_pairs(tmp_path / "uncut.jsonl")
    assert {pair.meta["policy"] for pair in pairs} == {str(policy)}
    assert len({pair.meta["question_id"] for pair in pairs}) > 1

    sampled.update(responses=0, stop_after=2)
    assert run("cut.jsonl") == 130
    assert "Run the same command to resume" in capsys.readouterr().err
    work = tmp_path / "cut.jsonl.work"
    assert len(samples(work)) == 2
    work.write_bytes(work.read_bytes()[:-9])  # and the last line was cut
    sampled.update(responses=0, stop_after=10**9)
    assert run("cut.jsonl") == 0
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "uncut.jsonl").read_bytes()
    assert samples(work) == samples(tmp_path / "uncut.jsonl.work")

    # Finished: nothing is sampled again, nor is the model loaded.
    sampled.update(ids=[])
    assert run("cut.jsonl") == 0
    assert run("cut.jsonl", "sampling.group_size=3") == 0  # fewer of the same
    assert sampled["ids"] == []
    used = {
        pair.meta[f"{side}_sample"] for pair in read_pairs(tmp_path / "cut.jsonl") for side in ("chosen", "rejected")
    }
    assert used == {"0", "1", "2"}

    # Only a question that lacks a response is sampled.
    short = module.question_key(stories[2])
    kept = [row for row in work.read_text().splitlines() if f'"{short}", "sample": 3' not in row]
    assert len(kept) == len(work.read_text().splitlines()) - 1
    work.write_text("".join(line + "\n" for line in kept))
    assert run("cut.jsonl") == 0
    assert sampled["ids"] == [int(short[:8], 16)]
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "uncut.jsonl").read_bytes()
    # Other settings of the sampler are refused.
    assert run("cut.jsonl", "sampling.temperature=0.5") == 2
    assert "holds the samples of other settings (temperature): give another output" in capsys.readouterr().err


# --- from generated stories


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_pairs_of_corruptions(main, tmp_path, ending, capsys):
    output = tmp_path / f"pairs.{ending}"
    arguments = ["--source", "corruptions", "--output", str(output), "--seed", "3"]
    assert main([*arguments, "corruptions.count=20", "corruptions.options=3", "corruptions.split=heldout"]) == 0
    stories = generate_stories(20, seed=3, options=3, split="heldout")
    assert read_pairs(output) == corruption_pairs(stories, seed=3, single_stages=True)
    assert "loop 20" in capsys.readouterr().out
    few = ["corruptions.kinds=[loop]", "corruptions.plots=[leave]", "corruptions.question_types=[belief]"]
    assert main([*arguments, "corruptions.count=4", "corruptions.options=3", "corruptions.max_events=6", *few]) == 0
    assert {(p.meta["kind"], p.meta["plot"], p.meta["type"]) for p in read_pairs(output)} == {
        ("loop", "leave", "belief")
    }
    assert main([*arguments, "corruptions.single_stages=false", "corruptions.count=4"]) == 0
    assert {p.stage for p in read_pairs(output)} == {""}
    assert not Path(f"{output}.work").exists()


def test_corruptions_need_no_jax(tmp_path):
    code = (
        "import sys; from socialr1_jax.config.pairs import PairsConfig\n"
        "from socialr1_jax.training.build_pairs import build_pairs\n"
        f"build_pairs(PairsConfig(source='corruptions', output={str(tmp_path / 'p.jsonl')!r}))\n"
        "assert not {'jax', 'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code.replace("output=", "corruptions={'count': 5}, output=")], check=True)
    assert len(read_pairs(tmp_path / "p.jsonl")) > 25


# --- bad input


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"story": " "}, "row 2: story is ' ', not a text; fill it in"),
        ({"response": None}, "row 2: response is None, not a text"),
        ({"question": 7}, "row 2: question is 7, not a text"),
        ({"response": ...}, "row 2: no 'response'; a row needs story, question and response"),
        ({"options": 3}, "row 2: cannot read the options 3"),
    ],
)
def test_a_bad_row_of_responses_is_named(main, tmp_path, row, message, capsys):
    good = {"story": "Anna left.", "question": "Where?", "response": "<think>x</think><Answer>A</Answer>"}
    bad = {name: value for name, value in (good | row).items() if value is not ...}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(bad) + "\n")
    assert main(["--source", "responses", "--responses", str(file), "--output", str(tmp_path / "p.jsonl")]) == 2
    assert f"build_pairs.py: error: {file} {message}" in capsys.readouterr().err
    assert not (tmp_path / "p.jsonl").exists()


def test_question_without_story_and_missing_files(main, policy, tmp_path, capsys):
    file, output = tmp_path / "q.jsonl", tmp_path / "p.jsonl"
    file.write_text(json.dumps({"id": "q1", "story": "", "question": "Why?", "answer": "so"}))
    assert main(["--policy", str(policy), "--questions", str(file), "--output", str(output)]) == 2
    assert "q.jsonl: question q1 has no story; pairs need one" in capsys.readouterr().err
    assert main(["--policy", str(policy), "--questions", str(tmp_path / "no.jsonl"), "--output", str(output)]) == 2
    assert "no.jsonl: cannot read the file" in capsys.readouterr().err
    file.write_text(json.dumps({"id": "q1", "story": "Anna left.", "question": "Why?", "answer": "so"}))
    assert main(["--policy", "nowhere", "--questions", str(file), "--output", str(output)]) == 2
    assert "no folder 'nowhere'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]
    assert main(["--source", "responses", "--responses", str(tmp_path / "no.jsonl"), "--output", str(output)]) == 2
    assert "no.jsonl: cannot read the file" in capsys.readouterr().err


def test_question_file_is_read_as_by_runs(tmp_path, caplog):
    row = {"story": "Anna left.", "question": "Who left?", "a": "Ann", "b": "Ben", "key": 2}
    file = tmp_path / "q.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in (row, row | {"key": 1}, row | {"key": 7})))
    given = [
        "output=p.jsonl",
        "policy=x",
        f"questions={file}",
        "columns={options: 'a, b', answer: key}",
        "first_label=1",
    ]
    with pytest.raises(DataError, match=r"row 3: the gold answer '7'(.|\n)*leave such rows out: allow_bad_rows=true"):
        module._questions(load_config(PairsConfig, None, given))
    given += ["allow_bad_rows=true", "prompt={{ question }}", "system=Be brief."]
    found = module._questions(load_config(PairsConfig, None, given))
    assert [one.answer for one in found] == ["B", "A"]
    assert [turn["content"] for turn in found[0].messages] == ["Be brief.", "Who left?"]
    file.write_text(json.dumps(row | {"key": 7}))
    with pytest.raises(DataError, match="row 1: the gold answer '7'"):  # all rows are bad
        module._questions(load_config(PairsConfig, None, given))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output=p.jsonl", "source=corruptions", "first_label=1"], "first_label is about a question file, and source"),
        (["output=p.jsonl", "source=responses", "responses=r", "allow_bad_rows=true"], "source responses reads none"),
        (["source=corruptions"], "output is required"),
        (["output=p.txt", "source=corruptions"], "output 'p.txt' ends in neither .jsonl nor .parquet"),
        (["output=p.jsonl"], "source policy needs policy; set it, or another source"),
        (["output=p.jsonl", "policy=x"], "source policy needs questions; set it"),
        (["output=p.jsonl", "source=responses"], "source responses needs responses"),
        (["output=p.jsonl", "source=responses", "responses=r", "policy=x"], "source responses does not read policy"),
        (["output=p.jsonl", "source=responses", "responses=r", "structure.judge=none"], "structure.judge is none"),
        (["output=p.jsonl", "source=corruptions", "matching.min_gap=0"], "matching.min_gap must be more than 0"),
        (["output=p.jsonl", "source=corruptions", "matching.max_length_ratio=0.9"], "must be at least 1"),
        (["output=p.jsonl", "source=corruptions", "corruptions.count=0"], "corruptions.count must be at least 1"),
        (["output=p.jsonl", "matching.gap=1"], "did you mean 'matching.min_gap'"),
    ],
)
def test_settings_that_do_not_fit(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(PairsConfig, None, overrides)


def test_a_kind_that_does_not_exist(main, tmp_path, capsys):
    output = tmp_path / "p.jsonl"
    assert main(["--source", "corruptions", "--output", str(output), "corruptions.kinds=[loops]"]) == 2
    assert "kinds has 'loops'; use some of" in capsys.readouterr().err


def test_defaults_are_what_help_says(capsys, main):
    config = load_config(PairsConfig, None, ["output=p.jsonl", "source=corruptions", "sampling.top_p=0.9"])
    assert (config.sampling.group_size, config.sampling.max_new_tokens) == (6, 2048)
    assert config.corruptions.kinds == KINDS
    with pytest.raises(SystemExit):
        main(["--help"])
    assert re.search(r"sampling.group_size +6 +responses per question", capsys.readouterr().out)


def test_dry_run_says_how_much_work_it_is(capsys, main):
    with pytest.raises(SystemExit):
        main(["--policy", "x", "--questions", "q.jsonl", "--output", "p.jsonl", "--dry-run"])
    assert "a question: 6 responses, up to 12,288 response tokens" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--source", "corruptions", "--output", "p.jsonl", "--dry-run"])
    assert "up to 5,000 pairs of 1,000 stories x 5 kinds" in capsys.readouterr().out


def test_every_field_has_an_effect():
    modules = (module, pair_scores, pair_work_file, pairs_module, story_config)
    text = "".join(Path(m.__file__).read_text() for m in modules)
    assert "**config.sampling.draws" in text
    for section in (PairsConfig, *(type(PairsConfig.model_fields[n].default) for n in ("matching", "corruptions"))):
        for name in section.model_fields:
            assert re.search(rf"\.{name}\b(?!\()", text), name
