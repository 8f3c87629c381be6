"""Trace the steps of a run and say where time and memory go: profile.html, profile.json, a trace and the programs.

    python scripts/profile_run.py --config configs/quickstart.yaml --phase step --steps 3
    python scripts/profile_run.py --config configs/smoke.yaml --phase update --strict grpo.micro_batch_tokens=4096

The configuration is that of a GRPO run or a quickstart, and `section.field=value` overrides it. What each figure means:
docs/profiling.md. Exit status: 0 done, 1 --strict found an implicit transfer, 2 bad arguments or input.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import Section
from socialr1_jax.config.yaml_text import parse_yaml
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, print_line, run_script


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


def main(argv: list[str] | None = None) -> int:
    own, others = _split(sys.argv[1:] if argv is None else argv)
    config = parse_args(
        ProfileConfig,
        own,
        description="Trace steps of a run: --config FILE.yaml is that of train_grpo.py or quickstart.py, and every "
        "field of it can be set as there.",
    )
    run = parse_args(_run_class(others), others, description="")
    prepare(run.xla_flags, programs=False)
    from socialr1_jax.profiling.run import profile_run  # imports JAX: only once the arguments are right
    from socialr1_jax.profiling.steps import ImplicitTransfer

    try:
        page = profile_run(run, config.phase, config.steps, Path(config.output_dir), config.strict)
    except (ValueError, OSError) as error:
        print_error(f"profile_run.py: error: {error}")
        return 2
    except ImplicitTransfer as error:
        print_error(f"profile_run.py: strict: {error}")
        return 1
    print_line(f"{page} and, beside it, profile.json, trace, hlo and memory.pprof")
    return 0


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
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
                found = parse_yaml(Path(file).read_text(encoding="utf-8"))
                names |= found.keys() if isinstance(found, dict) else set()
    own = QuickstartConfig.model_fields.keys() - RunConfig.model_fields.keys()
    return QuickstartConfig if names & own else RunConfig


if __name__ == "__main__":
    run_script(main)
