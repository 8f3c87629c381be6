"""The settings of generated stories, shared by every command that makes some."""

from typing import Any, Literal

from pydantic import Field

from socialr1_jax.config.sections import Section, Texts


class StoryConfig(Section):
    """Which theory-of-mind stories are generated, and what is asked about them."""

    question_types: Texts = Field((), description="kinds of question; [] = all that the plots can answer")
    plots: Texts = Field((), description="plots to draw from; [] = those of the difficulty")
    twins: bool = Field(True, description="questions in pairs: one perception changed, another answer")
    options: int = Field(4, ge=3, le=4, description="options of a question")
    difficulty: Literal["easy", "medium", "hard"] = Field(
        "medium",
        description="easy: short stories of few people; medium: all plots up to the second order; hard: third order "
        "and distractors, up to 20 sentences",
    )
    max_events: int = Field(0, ge=0, description="most sentences of a story; 0 = as many as the difficulty has")
    distractors: int = Field(
        -1, ge=-1, description="most events that no question is about; -1 = as many as the difficulty has"
    )

    def arguments(self) -> dict[str, Any]:
        """The arguments of `generate_stories` that these settings name."""
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
    """A question file of generated stories."""

    count: int = Field(1000, ge=1, le=1_000_000, description="questions")
    seed: int = Field(0, ge=0, lt=2**31, description="decides every draw")
    split: Literal["train", "heldout"] = Field("train", description="no name meets the same object in the other split")
    output: str = Field(min_length=1, description="file of questions, .jsonl")
    hold_out_plots: Texts = Field((), description="plots that only the held-out split tells")
    hold_out_names: bool = Field(False, description="held-out questions have people that training never meets")
    stories: StoryConfig = StoryConfig()
