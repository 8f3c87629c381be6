"""Settings of `build_pairs.py`, which makes preference pairs."""

from pathlib import PurePath
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.evaluation import QuestionFileConfig
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.config.run import SamplingConfig
from socialr1_jax.config.sections import Real, Section, Texts
from socialr1_jax.config.stories import CORRUPTIONS, StoryConfig


class TrajectoryConfig(SamplingConfig):
    """Sampling of the policy's responses (source policy)."""

    group_size: int = Field(6, ge=2, description="responses per question; they are compared with each other")
    max_new_tokens: int = Field(2048, ge=1, description="length limit of a response")


class MatchingConfig(Section):
    """Rules for pairing two texts of a question."""

    unit: Literal["stage", "whole", "both"] = Field(
        "both", description="compare the text of one stage, whole thoughts, or both"
    )
    min_gap: Real = Field(0.2, gt=0, le=1, description="smallest difference between the two scores")
    max_length_ratio: Real = Field(1.5, ge=1, description="largest ratio of the two lengths in characters")
    per_question: int = Field(6, ge=1, description="most pairs per question")


class CorruptionConfig(StoryConfig):
    """Generated stories and the corruptions of their reference traces (source corruptions)."""

    count: int = Field(1000, ge=1, description="number of stories")
    split: Literal["train", "heldout"] = Field("train", description="the splits share no pair of name and object")
    kinds: Texts = Field(CORRUPTIONS, min_length=1, description="kinds of corruption; each makes one pair per story")
    single_stages: bool = Field(True, description="also make pairs of single stages from false statements")


class PairsConfig(QuestionFileConfig):
    """Sources of thoughts, their judge, and rules for pairing."""

    output: str = Field(min_length=1, description="file to write (.jsonl or .parquet)")
    source: Literal["policy", "responses", "corruptions"] = Field(
        "policy",
        description="policy: sample from a model; responses: use existing responses; corruptions: corrupt the traces "
        "of generated stories, which needs neither model nor judge",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of sampling, stories and the choice of pairs")
    policy: str = Field("", description="source policy: Hugging Face folder or hub id of a Qwen3")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="type of the policy's weights and computation")
    ignore_fields: Texts = Field((), description="unknown fields of the policy's config.json to ignore: [a, b]")
    questions: str = Field("", description="source policy: .jsonl, .json, .csv, .parquet or hub dataset id")
    allow_bad_rows: bool = Field(False, description="question file: drop and count invalid rows instead of stopping")
    max_prompt_tokens: int = Field(1024, ge=1, description="longer prompts are dropped and counted, never cut")
    responses: str = Field("", description="source responses: rows with story, question, options and response")
    opened: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="source responses: whether the prompts ended in <think>, so that the responses lack it; auto: yes "
        "if no response in the file has <think> and some have </think>",
    )
    sampling: TrajectoryConfig = TrajectoryConfig()
    structure: StructureConfig = StructureConfig()
    matching: MatchingConfig = MatchingConfig()
    corruptions: CorruptionConfig = CorruptionConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if PurePath(self.output).suffix.lower() not in (".jsonl", ".parquet"):
            raise ValueError(f"output {self.output!r} ends in neither .jsonl nor .parquet; change its ending")
        needed = {"policy": ("policy", "questions"), "responses": ("responses",), "corruptions": ()}
        for names in needed.values():
            for name in names:
                given, wanted = bool(getattr(self, name)), name in needed[self.source]
                if wanted and not given:
                    raise ValueError(f"source {self.source} needs {name}; set it, or another source")
                if given and not wanted:
                    raise ValueError(f"source {self.source} does not read {name}; leave it out, or set source")
        for name in (*QuestionFileConfig.model_fields, "allow_bad_rows"):
            if getattr(self, name) and self.source != "policy":
                raise ValueError(f"{name} is about a question file, and source {self.source} reads none; leave it out")
        if self.source != "corruptions" and self.structure.judge == "none":
            raise ValueError("structure.judge is none, but pairs need scores; set structure.judge to rules")
        return self

    def arithmetic(self) -> str:
        """Return the amount of work in responses, judged texts and pairs."""
        if self.source == "corruptions":
            stories, kinds = self.corruptions.count, len(self.corruptions.kinds)
            return f"up to {stories * kinds:,} pairs of {stories:,} stories x {kinds} kinds" + (
                ", and those of single stages" if self.corruptions.single_stages else ""
            )
        lines = []
        if self.source == "policy":
            group, limit = self.sampling.group_size, self.sampling.max_new_tokens
            lines.append(f"a question: {group} responses, up to {group * limit:,} response tokens")
        lines.append(
            "a response: judged once, and once more for each stage if the judge does not score stages; "
            f"at most {self.matching.per_question} pairs a question"
        )
        return "\n".join(lines)
