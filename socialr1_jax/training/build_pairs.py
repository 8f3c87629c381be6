"""Build preference pairs from a policy's own thoughts: sample, split, judge, match (SocialPairs of the paper).

    questions ──> 6 responses each ──> thoughts ──> segments of the four stages ──> scores ──> pairs within a question

Expensive results (responses and verdicts) are cached in `<output>.work` (`pair_work_file.py`). An interrupted build
resumes from it, and a build with other settings of `matching` or `structure` reuses its responses.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.data.options import parse_options
from socialr1_jax.data.pairs import Pair, match_pairs, read_pairs, write_pairs
from socialr1_jax.data.prompts import PromptWriter
from socialr1_jax.data.question_files import read_examples
from socialr1_jax.data.tables import DataError, read_all_rows, refuse_half_characters
from socialr1_jax.rewards.parsing import Opened, whole_responses
from socialr1_jax.run.console import Bar, console, shown_log, working
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, printable, shown
from socialr1_jax.stories.corruptions import corruption_pairs
from socialr1_jax.stories.stories import generate_stories
from socialr1_jax.training.pair_scores import judge_identity, score_texts, thoughts_about
from socialr1_jax.training.pair_work_file import WorkFile, hash_of, question_key, sample_settings


@dataclass(frozen=True, kw_only=True)
class PairsSummary:
    """The pairs of a build, and the numbers of questions, responses, thoughts and (by cause) unscorable texts."""

    questions: int = 0
    responses: int = 0
    thoughts: int = 0
    unscorable: Mapping[str, int]
    pairs: tuple[Pair, ...]

    @property
    def rejected_shorter(self) -> float:
        """Share of pairs whose rejected text is the shorter one; at 0.5 length does not predict the label."""
        return sum(len(pair.rejected) < len(pair.chosen) for pair in self.pairs) / len(self.pairs)


def build_pairs(config: PairsConfig) -> PairsSummary:
    """Build preference pairs, write them atomically to `config.output`, and return their counts.

    The output depends only on the configuration, even if the build was interrupted. Raises DataError for unusable
    input, ConfigError if the work file holds samples of other settings, JudgeRefused if the judge rejects every
    request, ValueError if there is no pair, and the errors of `load_hf` and `make_judge`.
    """
    refuse_foreign_file(Path(config.output), _is_built, "a file of pairs")
    if config.source == "corruptions":
        settings, seed = config.corruptions, config.seed
        stories = generate_stories(settings.count, seed=seed, split=settings.split, **settings.arguments())
        pairs = corruption_pairs(stories, seed=seed, kinds=settings.kinds, single_stages=settings.single_stages)
        write_pairs(config.output, pairs)
        return PairsSummary(unscorable={}, pairs=tuple(pairs))

    with closing(WorkFile(Path(f"{config.output}.work"), sample_settings(config))) as work:
        if config.source == "policy":
            examples = _questions(config)
            _sample(config, examples, work)
            group = range(config.sampling.group_size)
            groups = [(example, [work.samples.get((question_key(example), i)) for i in group]) for example in examples]
        else:
            groups = _read_responses(config.responses, config.opened)
        questions = [thoughts_about(example, responses) for example, responses in groups]
        scored, unscorable = score_texts(config, questions, work)
    provenance = _provenance(config)
    pairs = [
        pair
        for (example, _), texts in zip(groups, scored, strict=True)
        for pair in match_pairs(
            texts, config.matching, example.id, example.story, example.question, config.seed, provenance
        )
    ]
    if not any(questions):
        raise ValueError(
            f"none of {counted(sum(len(responses) for _, responses in groups), 'response')} has thoughts to compare; "
            f"take a policy that writes <think>...</think>, or more tokens; {config.output}.work has the responses"
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
        questions=len(questions),
        responses=sum(text is not None for _, responses in groups for text in responses),
        thoughts=sum(map(len, questions)),
        unscorable=unscorable,
        pairs=tuple(pairs),
    )


def _is_built(file: Path) -> bool:
    return all(pair.meta.get("source") in ("policy", "responses", "corruptions") for pair in read_pairs(file))


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
    group = config.sampling.group_size

    def lacks(example: Example) -> bool:
        return any((question_key(example), i) not in work.samples for i in range(group))

    if not any(map(lacks, examples)):
        return

    import jax

    from socialr1_jax.data.prompts import encode_prompts
    from socialr1_jax.models.attention_trial import prefill_attention
    from socialr1_jax.questions.prompt_lengths import refuse_long_prompts
    from socialr1_jax.runtime.mesh import make_mesh
    from socialr1_jax.sampling import Engine, SamplingParams
    from socialr1_jax.sampling.text import decode_responses, stop_token_ids
    from socialr1_jax.weights.hf import load_hf
    from socialr1_jax.weights.hf_folder import local_folder
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    tensor = config.sampling.tensor
    mesh = make_mesh(tensor=1 if tensor == "auto" else tensor)
    with working(f"loading {config.policy}"), jax.set_mesh(mesh):
        folder = local_folder(config.policy)
        tokenizer = load_tokenizer(folder)  # first: a bad tokenizer fails before the weights are loaded
        model = load_hf(folder, mesh, config.dtype, ignore_fields=config.ignore_fields)
    refuse_long_prompts(
        tokenizer,
        [([config.questions], examples)],
        positions=model.config.max_position_embeddings,
        max_new_tokens=config.sampling.max_new_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        limit="max_prompt_tokens",
    )
    encoded = encode_prompts(tokenizer, examples, config.max_prompt_tokens)
    prompts = [prompt for prompt in encoded if lacks(prompt.example)]
    keys = [question_key(prompt.example) for prompt in prompts]
    engine = Engine(
        params=model.params,
        config=model.config,
        num_tokens=model.num_tokens,
        dtype=config.dtype,
        backend=prefill_attention("auto", config.dtype),
        **config.sampling.model_dump(include={"weights", "attention", "segment_tokens", "max_rows"}),
    )
    stops = stop_token_ids(model, tokenizer)
    sampling = SamplingParams(n=group, seed=config.seed, stop_token_ids=stops, **config.sampling.draws)
    # Seed each sample by its question, not by the question's position in the file.
    ids = [int(key[:8], 16) for key in keys]
    with jax.set_mesh(mesh), shown_log(), Bar("sample", len(prompts) * group) as bar:
        tokens = [prompt.tokens for prompt in prompts]
        for at, sample, completion in engine.completions(tokens, sampling, prompt_ids=ids):
            text = "" if completion.finish_reason == "error" else decode_responses(tokenizer, [completion])[0]
            if (keys[at], sample) not in work.samples:
                work.add_sample(keys[at], sample, text)
            bar.advance(counted(len(completion.tokens), "token"))


def _read_responses(file: str, opened: Opened) -> list[tuple[Example, list[str | None]]]:
    """Return the questions of a file in order, each with its responses; rows with the same texts are one question."""
    groups: dict[str, tuple[Example, list[str]]] = {}
    taken: set[str] = set()
    for number, row in enumerate(read_all_rows(file), 1):
        for name in ("story", "question", "response"):
            if name not in row.values:
                raise DataError(f"{row.where}: no {name!r}; a row needs story, question and response")
            if not isinstance(row.values[name], str) or not row.values[name].strip():
                raise DataError(f"{row.where}: {name} is {shown(row.values[name])}, not a text; fill it in")
        story, question = row.values["story"], row.values["question"]
        row_id = row.values.get("id")
        usable = isinstance(row_id, str) and row_id.strip() and row_id not in taken
        question_id = str(row_id) if usable else f"{Path(file).stem}-{number}"
        try:
            refuse_half_characters([row.values["response"]])
            options = parse_options(row.values.get("options"))
            example = Example(id=question_id, story=story, question=question, answer="unknown")
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        key = hash_of(story, question, options)
        if key not in groups:
            taken.add(question_id)
            groups[key] = (example, [])
        groups[key][1].append(row.values["response"])
    whole = iter(whole_responses([text for _, responses in groups.values() for text in responses], opened))
    return [(example, [next(whole) for _ in responses]) for example, responses in groups.values()]


def _provenance(config: PairsConfig) -> dict[str, str]:
    identity = judge_identity(config.structure)
    provenance = {
        "source": config.source,
        "policy" if config.source == "policy" else "responses": config.policy or Path(config.responses).name,
        "seed": str(config.seed),
        "judge": " ".join(filter(None, (identity["judge"], identity.get("model", "")))),
    }
    return provenance | ({"rubric": identity["rubric"]} if "rubric" in identity else {})


def say_pairs(summary: PairsSummary, output: str) -> None:
    """Print the counts of a build and how often the rejected text is the shorter one."""
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
