"""Settings of generated stories, shared by all commands that generate them."""

from typing import Any, Literal

from pydantic import Field

from socialr1_jax.config.sections import Section, Texts

CORRUPTIONS = ("wrong_perceiver", "ungrounded_claim", "skipped_stage", "loop", "option_first")  # of reference thoughts


class StoryConfig(Section):
    """Generated theory-of-mind stories and their questions."""

    question_types: Texts = Field((), description="kinds of question; [] = all that the plots support")
    plots: Texts = Field((), description="plots to draw from; [] = those of the difficulty")
    twins: bool = Field(True, description="questions in pairs that differ in one perception and in the answer")
    options: int = Field(4, ge=3, le=4, description="options per question")
    difficulty: Literal["easy", "medium", "hard"] = Field(
        "medium",
        description="easy: short stories with few people; medium: all plots up to second order; hard: third order "
        "and distractors, up to 20 sentences",
    )
    max_events: int = Field(0, ge=0, description="most sentences in a story; 0 = the difficulty's limit")
    distractors: int = Field(-1, ge=-1, description="most events unrelated to questions; -1 = the difficulty's limit")

    def arguments(self) -> dict[str, Any]:
        """Return these settings as arguments of `generate_stories`."""
        return {
            "question_types": self.question_types,
            "plots": self.plots,
            "twins": self.twins,
            "options": self.options,
            "difficulty": self.difficulty,
            "max_events": self.max_events or None,
            "distractors": None if self.distractors < 0 else self.distractors,
        }


class MakeStoriesConfig(Section):
    """A question file of generated stories to write."""

    count: int = Field(1000, ge=1, le=1_000_000, description="questions")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of every draw")
    split: Literal["train", "heldout"] = Field("train", description="the splits share no pair of name and object")
    output: str = Field(min_length=1, description="file to write (.jsonl)")
    hold_out_plots: Texts = Field((), description="plots that only the held-out split uses")
    hold_out_names: bool = Field(False, description="held-out questions use names that do not occur in training")
    stories: StoryConfig = StoryConfig()
