"""Settings of a profile, given on the command line together with those of the traced run."""

import contextlib
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.loading import config_file
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import Section
from socialr1_jax.config.yaml_text import parse_yaml


class ProfileConfig(Section):
    """Settings of a profile; all other fields belong to the run."""

    phase: Literal["rollout", "reward", "update", "step"] = Field("step", description="phase to trace, or whole steps")
    steps: int = Field(3, ge=1, description="traced steps, after the warm-up steps that compile")
    output_dir: str = Field("runs/profile", min_length=1, description="folder of the profile")
    strict: bool = Field(False, description="fail on an implicit transfer in the update")

    @model_validator(mode="after")
    def _has_update(self) -> Self:
        if self.strict and self.phase not in ("update", "step"):
            raise ValueError(f"strict checks the update, and phase {self.phase} has none; set phase to update or step")
        return self


def parse_profile(arguments: Sequence[str], description: str) -> tuple[ProfileConfig, RunConfig]:
    """Return the settings of the profile and those of its run, as `parse_args` does."""
    own, others = _split(arguments)
    run = "--config FILE.yaml is that of train_grpo.py or quickstart.py, and every field of it can be set as there."
    profile = parse_args(ProfileConfig, own, description=f"{description.removesuffix('.')}: {run}")
    return profile, parse_args(_run_class(others), others, description="")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split arguments into those of the profile (with --help) and those of the run."""
    own: list[str] = []
    others: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, _ = argument.lstrip("-").partition("=")
        name = name.replace("-", "_")
        mine = name in (*ProfileConfig.model_fields, "help", "h")
        (own if mine else others).append(argument)
        if mine and argument.startswith("--") and not equals and name not in ("strict", "help"):
            own += [value] if (value := next(rest, None)) is not None else []
    return own, others


def _run_class(arguments: list[str]) -> type[RunConfig]:
    """Return QuickstartConfig if a configuration file or an override has a section of it, else RunConfig."""
    names = {argument.lstrip("-").partition("=")[0].partition(".")[0] for argument in arguments}
    for before, argument in zip(["", *arguments], arguments, strict=False):
        file = argument if before == "--config" else argument.removeprefix("--config=")
        if file != argument or before == "--config":
            with contextlib.suppress(OSError, ValueError):  # parse_args reports the error
                settings = parse_yaml(config_file(file).read_text(encoding="utf-8"))
                names |= settings.keys() if isinstance(settings, dict) else set()
    own = QuickstartConfig.model_fields.keys() - RunConfig.model_fields.keys()
    return QuickstartConfig if names & own else RunConfig
