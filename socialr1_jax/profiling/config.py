"""Settings of a profile, on a command line together with those of the run that is traced."""

import contextlib
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.command_line import Section, config_file, parse_args
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.yaml_text import parse_yaml


class ProfileConfig(Section):
    """Settings of a profile; every other field is one of the run's own."""

    phase: Literal["rollout", "reward", "update", "step"] = Field("step", description="what is traced")
    steps: int = Field(3, ge=1, description="traced steps, after those that compile")
    output_dir: str = Field("runs/profile", min_length=1, description="folder that the profile is written to")
    strict: bool = Field(False, description="an implicit transfer in the update is an error")

    @model_validator(mode="after")
    def _has_update(self) -> Self:
        if self.strict and self.phase not in ("update", "step"):
            raise ValueError(
                f"strict looks at the update, and phase {self.phase} has none; set phase to update or step"
            )
        return self


def parse_profile(arguments: Sequence[str], description: str) -> tuple[ProfileConfig, RunConfig]:
    """Return the settings of the profile and those of its run, as `parse_args` does."""
    own, others = _split(arguments)
    description = description.removesuffix(".")
    description += (
        ": --config FILE.yaml is that of train_grpo.py or quickstart.py, and every field of it can be set as "
    )
    profile = parse_args(ProfileConfig, own, description=f"{description}there.")
    return profile, parse_args(_run_class(others), others, description="")


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the profile's own arguments and --help, those of the run)."""
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
    """A quickstart's class where a configuration file or an override has a section that only a quickstart has."""
    names = {argument.lstrip("-").partition("=")[0].partition(".")[0] for argument in arguments}
    for before, argument in zip(["", *arguments], arguments, strict=False):
        file = argument if before == "--config" else argument.removeprefix("--config=")
        if file != argument or before == "--config":
            with contextlib.suppress(OSError, ValueError):  # parse_args reports what is wrong with it
                found = parse_yaml(config_file(file).read_text(encoding="utf-8"))
                names |= found.keys() if isinstance(found, dict) else set()
    own = QuickstartConfig.model_fields.keys() - RunConfig.model_fields.keys()
    return QuickstartConfig if names & own else RunConfig
