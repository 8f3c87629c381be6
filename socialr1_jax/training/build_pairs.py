"""Preference pairs of a policy's own thoughts: sample, cut into stages, judge, match (SocialPairs of the paper).

    questions ──> 6 responses each ──> thoughts ──> segments of the four stages ──> scores ──> pairs within a question

Whole thoughts are judged as they stand. A segment's score is the judge's score of that stage, where the judge gives
scores of stages (the rubric of endpoint and local does). The rules judge scores whole thoughts only, and a segment by
itself would be three skipped stages to it. There, a segment is judged in a frame: the question's best thoughts with
this segment in the place of their own. All segments of a stage stand in the same company, so that the scores differ by
what the segment does: thin, copied, without a link to the rest, options too early, loops.

Expensive results are kept in a work file beside the output, `<output>.work`: one whole line for each response and
verdict. An interrupted run resumes from it, and other settings of `matching` or `structure` use its responses again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from socialr1_jax.config.pairs import CorruptionConfig, PairsConfig
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.config.run import ConfigError
from socialr1_jax.data.examples import Example, parse_options, read_examples
from socialr1_jax.data.pairs import Pair, Scored, match_pairs, read_pairs, write_pairs
from socialr1_jax.data.prompts import PromptWriter
from socialr1_jax.data.tables import DataError, read_rows, refuse_half_characters
from socialr1_jax.rewards.parsing import Opened, parse_response, whole_responses
from socialr1_jax.rewards.stages import STAGES, find_stages
from socialr1_jax.rewards.verdict import Judge, JudgeRefused, Verdict
from socialr1_jax.run.console import Bar, console, shown_log, working
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.ownership import begins_as, open_own, refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, printable, shown
from socialr1_jax.stories.corruptions import corruption_pairs
from socialr1_jax.stories.stories import generate_stories

_BEGIN = b'{"sampled_by": '  # of a work file
_BATCHES = 4  # of judge calls in flight that are handed in before their verdicts are written down


@dataclass(frozen=True, kw_only=True)
class PairsSummary:
    """Counts of a build: questions, responses and those with thoughts, unscorable texts by cause, the pairs."""

    questions: int = 0
    responses: int = 0
    thoughts: int = 0
    unscorable: Mapping[str, int]
    pairs: tuple[Pair, ...]

    @property
    def rejected_shorter(self) -> float:
        """Share of pairs whose rejected text is the shorter one: 0.5 says nothing about the length."""
        return sum(len(pair.rejected) < len(pair.chosen) for pair in self.pairs) / len(self.pairs)


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """The thoughts of one response, and the words of each stage in them."""

    sample: int
    text: str
    segments: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and what was thought about it."""

    id: str
    story: str
    question: str
    thoughts: tuple[Thoughts, ...]


def build_pairs(config: PairsConfig) -> PairsSummary:
    """Writes `config.output`, whole or not at all; with the same configuration the same bytes, cut off or not.

    Raises DataError for input that cannot be used, ConfigError for a work file of other samples, JudgeRefused if
    the judge rejects every request, ValueError when there is no pair, and what `load_hf` and `make_judge` raise.
    """
    refuse_foreign_file(Path(config.output), _is_built, "a file of pairs")
    if config.source == "corruptions":
        pairs = _corrupted(config.corruptions, config.seed)
        write_pairs(config.output, pairs)
        return PairsSummary(unscorable={}, pairs=tuple(pairs))

    with WorkFile(Path(f"{config.output}.work"), _sample_settings(config)) as work:
        if config.source == "policy":
            examples = _questions(config)
            _sample(config, examples, work)
            group = range(config.sampling.group_size)
            responses = [[work.samples.get((question_key(e), i)) for i in group] for e in examples]
            groups = [(e.id, e, found) for e, found in zip(examples, responses, strict=True)]
        else:
            groups = [
                (name, example, list(found))
                for name, example, found in _read_responses(config.responses, config.opened)
            ]
        asked = [_asked(name, example, found) for name, example, found in groups]
        scored, unscorable = _scores(config, asked, work)
    provenance = _provenance(config)
    pairs = [
        pair
        for question, texts in zip(asked, scored, strict=True)
        for pair in match_pairs(
            texts, config.matching, question.id, question.story, question.question, config.seed, provenance
        )
    ]
    if not any(question.thoughts for question in asked):
        raise ValueError(
            f"none of {counted(sum(len(found) for _, _, found in groups), 'response')} has thoughts to compare; take a "
            f"policy that writes <think>...</think>, or more tokens; {config.output}.work has the responses"
        )
    if not pairs:
        matching = config.matching
        raise ValueError(
            f"no two of {sum(map(len, scored))} scored texts make a pair: within one question and unit, a gap of "
            f"{matching.min_gap} and lengths within {matching.max_length_ratio}; lower matching.min_gap, raise "
            f"matching.max_length_ratio or give more responses (unscorable: {dict(unscorable)})"
        )
    write_pairs(config.output, pairs)
    return PairsSummary(
        questions=len(asked),
        responses=sum(text is not None for _, _, found in groups for text in found),
        thoughts=sum(len(question.thoughts) for question in asked),
        unscorable=unscorable,
        pairs=tuple(pairs),
    )


def _is_built(file: Path) -> bool:
    """Returns True if every pair of a file says that it was built here."""
    return all(pair.meta.get("source") in ("policy", "responses", "corruptions") for pair in read_pairs(file))


def _corrupted(made: CorruptionConfig, seed: int) -> list[Pair]:
    stories = generate_stories(made.count, seed=seed, split=made.split, **made.arguments())
    return corruption_pairs(stories, seed=seed, kinds=made.kinds, single_stages=made.single_stages)


# ------------------------------------------------------------------------------------------------------- the work file


class WorkFile:
    """Responses and verdicts, one whole line each as they come. The first line says what the responses are sampled by.

    A last line that a kill cut off is dropped. Raises ConfigError when the file holds other samples, DataError when it
    is damaged elsewhere.
    """

    _file: IO[bytes] | None

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.samples: dict[tuple[str, int], str] = {}
        self.verdicts: dict[str, Verdict] = {}
        self._path, self._file = path, None
        refuse_foreign_file(path, partial(begins_as, begin=_BEGIN), "a work file")
        kept = path.read_bytes() if path.exists() else b""
        self._kept = kept = kept[: kept.rfind(b"\n") + 1] or (json.dumps({"sampled_by": settings}) + "\n").encode()
        for number, line in enumerate(kept.splitlines(), 1):
            try:
                self._take(json.loads(line), number, settings, path)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if isinstance(error, ConfigError):
                    raise
                raise DataError(f"{path} row {number}: not a line of a work file; remove the file") from None

    def __enter__(self) -> WorkFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def add_sample(self, question: str, sample: int, response: str) -> None:
        self._add({"question": question, "sample": sample, "response": response})
        self.samples[question, sample] = response

    def add_verdict(self, key: str, verdict: Verdict) -> None:
        self._add({"judged": key, "score": verdict.score, "stages": dict(verdict.stages)})
        self.verdicts[key] = verdict

    def _add(self, line: Mapping[str, Any]) -> None:
        if self._file is None:  # no file before there is something to keep
            write_whole(self._path, self._kept)
            self._file = open_own(self._path, "ab", buffering=0)
        self._file.write((json.dumps(line) + "\n").encode())

    def _take(self, line: Mapping[str, Any], number: int, settings: Mapping[str, Any], path: Path) -> None:
        if number == 1:
            before = line["sampled_by"]
            differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if differing:
                raise ConfigError(
                    f"{path} holds the samples of other settings ({', '.join(sorted(differing))}): give another output,"
                    " or remove that file"
                )
        elif "judged" in line:
            self.verdicts[line["judged"]] = Verdict(float(line["score"]), stages=line["stages"])
        else:
            self.samples[line["question"], line["sample"]] = line["response"]


def _sample_settings(config: PairsConfig) -> dict[str, Any]:
    """Return what a sample depends on, beside its question and number. More samples of the same kind may follow."""
    if config.source == "responses":
        return {"source": "responses"}
    drawn = config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"})
    weights = sorted(Path(config.policy).glob("*.safetensors"))
    files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in weights}
    return {
        "source": "policy",
        "policy": config.policy,
        "policy's weights": files,
        "dtype": config.dtype,
        "seed": config.seed,
        **drawn,
    }


def question_key(example: Example) -> str:
    """Names a question in the work file, wherever it stands in the question file."""
    return _hash(example.id, example.story, example.question, example.options, *map(dict, example.messages))


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


# ----------------------------------------------------------------------------------------------------------- responses


def _questions(config: PairsConfig) -> list[Example]:
    with shown_log():
        examples = read_examples(
            config.questions,
            columns=config.columns,
            where=config.where,
            first_label=config.first_label,
            allow_bad_rows=config.allow_bad_rows,
        )
    for example in examples:
        if not example.story.strip():
            raise DataError(f"{config.questions}: question {printable(example.id, 100)} has no story; pairs need one")
    if config.prompt or config.system:
        return list(map(PromptWriter(config.prompt, config.system), examples))
    return examples


def _sample(config: PairsConfig, examples: Sequence[Example], work: WorkFile) -> None:
    """Samples what the work file lacks."""
    group = config.sampling.group_size

    def lacks(example: Example) -> bool:
        return any((question_key(example), i) not in work.samples for i in range(group))

    if not any(map(lacks, examples)):
        return

    import jax

    from socialr1_jax.data.prompts import encode_prompts
    from socialr1_jax.models.attention_trial import working_attention
    from socialr1_jax.questions.prompt_lengths import refuse_long_prompts
    from socialr1_jax.runtime.mesh import make_mesh
    from socialr1_jax.sampling import Engine, SamplingParams
    from socialr1_jax.sampling.text import decode_responses, stop_token_ids
    from socialr1_jax.weights.hf import load_hf, local_folder
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    mesh = make_mesh()
    with working(f"loading {config.policy}"), jax.set_mesh(mesh):
        tokenizer = load_tokenizer(folder := local_folder(config.policy))  # its faults show before the weights are read
        model = load_hf(folder, mesh, config.dtype, ignore_fields=config.ignore_fields)
    refuse_long_prompts(
        tokenizer,
        [([config.questions], examples)],
        positions=model.config.max_position_embeddings,
        max_new_tokens=config.sampling.max_new_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        limit="max_prompt_tokens",
    )
    prompts = encode_prompts(tokenizer, examples, config.max_prompt_tokens)
    missing = [i for i, prompt in enumerate(prompts) if lacks(prompt.example)]
    keys = [question_key(prompts[i].example) for i in missing]
    engine = Engine(
        params=model.params,
        config=model.config,
        num_tokens=model.num_tokens,
        dtype=config.dtype,
        backend=working_attention("auto", config.dtype),
        segment_tokens=config.sampling.segment_tokens,
        max_rows=config.sampling.max_rows,
    )
    sampling = SamplingParams(
        n=group,
        seed=config.seed,
        stop_token_ids=stop_token_ids(model, tokenizer),
        **config.sampling.model_dump(exclude={"group_size", "segment_tokens", "max_rows"}),
    )
    # A sample depends on its question, not on its place: the question's own number.
    ids = [int(key[:8], 16) for key in keys]
    with jax.set_mesh(mesh), shown_log(), Bar("sample", len(missing) * group) as bar:
        chosen = [prompts[i].tokens for i in missing]
        for prompt, sample, completion in engine.completions(chosen, sampling, prompt_ids=ids):
            text = "" if completion.finish_reason == "error" else decode_responses(tokenizer, [completion])[0]
            if (keys[prompt], sample) not in work.samples:
                work.add_sample(keys[prompt], sample, text)
            bar.advance(counted(len(completion.tokens), "token"))


def _read_responses(file: str, opened: Opened) -> Iterator[tuple[str, Example, list[str]]]:
    """Yield (name, question, responses) of each question of a file, in order; rows of equal texts are one question."""
    groups: dict[str, tuple[str, Example, list[str]]] = {}
    taken: set[str] = set()
    for number, row in enumerate(read_rows(file), 1):
        for name in ("story", "question", "response"):
            if name not in row.values:
                raise DataError(f"{row.where}: no {name!r}; a row needs story, question and response")
            if not isinstance(row.values[name], str) or not row.values[name].strip():
                raise DataError(f"{row.where}: {name} is {shown(row.values[name])}, not a text; fill it in")
        story, question = row.values["story"], row.values["question"]
        given = row.values.get("id")
        fits = isinstance(given, str) and given.strip() and given not in taken
        own = str(given) if fits else f"{Path(file).stem}-{number}"
        try:
            refuse_half_characters([row.values["response"]])
            options = parse_options(row.values.get("options"))
            example = Example(id=own, story=story, question=question, answer="unknown")
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        key = _hash(story, question, options)
        if key not in groups:
            taken.add(own)
            groups[key] = (own, example, [])
        groups[key][2].append(row.values["response"])
    whole = iter(whole_responses([text for _, _, responses in groups.values() for text in responses], opened))
    for name, example, responses in groups.values():
        yield name, example, [next(whole) for _ in responses]


def _asked(name: str, example: Example, responses: Iterable[str | None]) -> Asked:
    """The question with the thoughts of the responses that have any."""
    found = []
    for sample, response in enumerate(responses):
        text = parse_response(response or "").thoughts
        if text:
            found.append(Thoughts(sample=sample, text=text, segments=segments(text)))
    return Asked(id=name, story=example.story, question=example.question, thoughts=tuple(found))


def segments(thoughts: str) -> dict[str, str]:
    """The words of each stage that is there, without headings; stretches of one stage are put together."""
    parts: dict[str, list[str]] = {}
    for span in find_stages(thoughts):
        if words := thoughts[span.body : span.end].strip():
            parts.setdefault(span.stage, []).append(words)
    return {stage: "\n".join(parts[stage]) for stage in STAGES if stage in parts}


# -------------------------------------------------------------------------------------------------------------- scores


def _scores(
    config: PairsConfig, asked: Sequence[Asked], work: WorkFile
) -> tuple[list[list[Scored]], Mapping[str, int]]:
    """The scored texts of each question, and how many could not be scored, by cause."""
    from socialr1_jax.rewards.judges import make_judge

    unit = config.matching.unit
    unscorable: Counter[str] = Counter()
    judge = make_judge(config.structure.patient())
    assert judge is not None  # the configuration refuses `none`
    desk = _Desk(judge, config.structure, work, unscorable)
    try:
        desk.judge([(q, thoughts.text) for q in asked for thoughts in q.thoughts])
        scored = [[*_whole(q, desk)] for q in asked] if unit != "stage" else [[] for _ in asked]
        if unit != "whole":
            desk.judge([(q, text) for q in asked for _, _, text in _framed(q, desk)])
            for question, texts in zip(asked, scored, strict=True):
                texts.extend(_staged(question, desk))
    finally:
        judge.close()
    return scored, dict(sorted(unscorable.items()))


class _Desk:
    """Hands texts to the judge, and keeps what it said."""

    def __init__(self, judge: Judge, config: StructureConfig, work: WorkFile, unscorable: Counter[str]) -> None:
        self._judge, self._work, self._unscorable = judge, work, unscorable
        self._identity = judge_identity(config)
        self._batch = _BATCHES * config.concurrency

    def verdict(self, question: Asked, text: str) -> Verdict | None:
        """Return the verdict on the text; None when it could not be scored."""
        return self._work.verdicts.get(self._key(question, text))

    def judge(self, texts: Iterable[tuple[Asked, str]]) -> None:
        """Asks about each text without a verdict, once. Raises JudgeRefused if every request is rejected."""
        open_ones = {self._key(question, text): (question, text) for question, text in texts}
        todo = [(key, *one) for key, one in open_ones.items() if key not in self._work.verdicts]
        if not todo:
            return
        with Bar("judge", len(todo)) as bar:
            for start in range(0, len(todo), self._batch):
                batch = todo[start : start + self._batch]
                futures = [(key, self._judge.submit(q.story, q.question, text)) for key, q, text in batch]
                self._judge.finish()
                refused: JudgeRefused | None = None
                for key, future in futures:
                    try:
                        verdict = future.result()
                    except JudgeRefused as error:
                        refused = error
                        continue
                    if math.isnan(verdict.score):
                        self._unscorable[verdict.cause] += 1
                    else:
                        self._work.add_verdict(key, verdict)
                    bar.advance(f"unscorable {self._unscorable.total()}")
                if refused:
                    raise refused

    def _key(self, question: Asked, text: str) -> str:
        return _hash(self._identity, question.story, question.question, text)


def judge_identity(config: StructureConfig) -> dict[str, Any]:
    """Return what a verdict depends on, beside the texts."""
    if config.judge == "rules":
        return {"judge": "rules"}
    from socialr1_jax.rewards.rubric import read_rubric

    fields = {"judge", "model", "base_url", "temperature", "max_tokens", "options"}
    return config.model_dump(include=fields) | {"rubric": read_rubric(config.rubric).version}


def _whole(question: Asked, desk: _Desk) -> Iterator[Scored]:
    for thoughts in question.thoughts:
        if verdict := desk.verdict(question, thoughts.text):
            yield Scored(sample=thoughts.sample, stage="", text=thoughts.text, score=verdict.score, scored="whole")


def _with_stages(question: Asked, desk: _Desk) -> list[tuple[Thoughts, Verdict]]:
    """The thoughts whose stages the judge scored. Where it did so for some, the others cannot be compared with them."""
    judged = [(thoughts, desk.verdict(question, thoughts.text)) for thoughts in question.thoughts]
    return [(thoughts, verdict) for thoughts, verdict in judged if verdict is not None and verdict.stages]


def _framed(question: Asked, desk: _Desk) -> Iterator[tuple[Thoughts, str, str]]:
    """(thoughts, stage, text to judge) for each segment of a question whose stages the judge did not score."""
    judged = [(t, v) for t in question.thoughts if (v := desk.verdict(question, t.text)) is not None and t.segments]
    if not judged or _with_stages(question, desk):
        return
    best, _ = max(judged, key=lambda one: (len(one[0].segments), one[1].score, -one[0].sample))
    for thoughts, _ in judged:
        for stage, words in thoughts.segments.items():
            company = {**best.segments, stage: words}
            lines = [f"{name.capitalize()}: {company[name]}" for name in STAGES if name in company]
            yield thoughts, stage, "\n".join(lines)


def _staged(question: Asked, desk: _Desk) -> Iterator[Scored]:
    for thoughts, verdict in _with_stages(question, desk):
        for stage, words in thoughts.segments.items():
            if stage in verdict.stages:
                yield Scored(
                    sample=thoughts.sample, stage=stage, text=words, score=verdict.stages[stage], scored="stage"
                )
    for thoughts, stage, text in _framed(question, desk):
        if framed := desk.verdict(question, text):
            words = thoughts.segments[stage]
            yield Scored(sample=thoughts.sample, stage=stage, text=words, score=framed.score, scored="frame")


def _provenance(config: PairsConfig) -> dict[str, str]:
    identity = judge_identity(config.structure)
    found = {
        "source": config.source,
        "policy" if config.source == "policy" else "responses": config.policy or Path(config.responses).name,
        "seed": str(config.seed),
        "judge": " ".join(filter(None, (identity["judge"], identity.get("model", "")))),
    }
    return found | ({"rubric": identity["rubric"]} if "rubric" in identity else {})


def say_summary(summary: PairsSummary, output: str) -> None:
    """Print the counts of a build."""
    pairs = summary.pairs
    kinds = Counter(pair.meta.get("kind") or pair.stage or "whole" for pair in pairs)
    if summary.questions:
        console.print(
            f"{counted(summary.questions, 'question')}, {counted(summary.responses, 'response')}, "
            f"{summary.thoughts} with thoughts, "
            f"{counted(sum(summary.unscorable.values()), 'text')} unscorable"
            + "".join(f", {cause} {count}" for cause, count in summary.unscorable.items()),
            soft_wrap=True,
        )
    console.print(
        f"{output}: {counted(len(pairs), 'pair')} "
        f"({', '.join(f'{name} {count}' for name, count in sorted(kinds.items()))}); "
        f"the rejected text is the shorter one in {summary.rejected_shorter:.2f}",
        soft_wrap=True,
    )
