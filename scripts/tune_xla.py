"""Try XLA flags on this machine, one by one, and write those that make a GRPO step faster into a configuration file.

    python scripts/tune_xla.py --output configs/xla/cpu.yaml
    python scripts/tune_xla.py --output configs/xla/h200.yaml --benchmark "--shape 4b --dtype bfloat16 --prompts 8"

The file goes behind a run's own: train_grpo.py --config run.yaml --config configs/xla/h200.yaml. One JSON line for each
flag comes on standard output, the last is of all that are kept, measured again. More: docs/performance.md.
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from socialr1_jax.command_line import Real, Section, XlaFlags, parse_args
from socialr1_jax.terminal import print_error, print_line, run_script

DEFAULT = "--shape tiny --rows 40 --prompt 128 --new 128 --prompts 8 --group 5"


class TuneConfig(Section):
    """What is tried, and with which benchmark."""

    output: str = Field("configs/xla/this.yaml", min_length=1, description="file that is written, replacing an old one")
    flags: XlaFlags = Field((), description="flags to try; [] = the ones known for this backend")
    benchmark: str = Field(DEFAULT, description="arguments of benchmark.py")
    figure: Literal["grpo_step_s", "decode_tok_s", "prefill_tok_s", "tail_tok_s", "update_tok_s"] = Field(
        "grpo_step_s", description="of its result, what is to become better"
    )
    turns: int = Field(
        3, ge=1, description="runs of each flag, each after one without, and twice as many of what is kept"
    )
    least: Real = Field(1.02, gt=1.0, description="gain (times as fast) that a flag is kept for")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(TuneConfig, argv, description="Find XLA flags that make this machine faster.")
    from socialr1_jax.training.xla_flags import (
        BenchmarkFailed,
        Trial,
        candidates,
        measured,
        refuse_foreign_settings,
        tune,
        write_settings,
    )

    def say(trial: Trial) -> None:
        line = {"flags": trial.flags, "gain": round(trial.gain, 3), "turns": [round(x, 3) for x in trial.gains]}
        print_line(json.dumps(line | {"failed": trial.failed}))

    asked = shlex.join(["python", "scripts/tune_xla.py", *(sys.argv[1:] if argv is None else argv)])
    try:
        refuse_foreign_settings(Path(config.output))
        run = measured(shlex.split(config.benchmark), config.figure)
        flags = config.flags or candidates()
        run(())  # what is wrong with the benchmark itself shows now
        trials, again = tune(run, flags, turns=config.turns, least=config.least, say=say)
        kept = write_settings(
            Path(config.output), trials, again, least=config.least, command=asked, figure=config.figure
        )
    except (BenchmarkFailed, OSError, ValueError) as error:
        print_error(f"tune_xla.py: error: {error}")
        return 2
    print_error(f"{config.output}: {len(kept)} of {len(trials)} flags are worth it")
    return 0


if __name__ == "__main__":
    run_script(main)
