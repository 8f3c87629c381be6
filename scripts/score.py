"""Score samples of evaluate.py once more, without generating: `python scripts/score.py samples_hitom.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import Field

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.sections import ConfigError, Section
from socialr1_jax.runtime.terminal import print_error, print_line, print_result, run_script


class ScoreConfig(Section):
    """Which samples, and where the figures go."""

    samples: str = Field(min_length=1, description="samples_<task>.jsonl of evaluate.py")
    output: str = Field("", description='file for the figures as JSON; "" = print them only')


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or "-h" in arguments or "--help" in arguments:
        print_line("usage: score.py SAMPLES.jsonl [output=FIGURES.json]\n\n" + (__doc__ or ""))
        return 0
    from socialr1_jax.evaluation.rescore import refuse_foreign_figures, refuse_lost_figures, rescore
    from socialr1_jax.runtime.files import write_json

    try:
        config = load_config(ScoreConfig, None, [f"samples={arguments[0]}", *arguments[1:]])
        if config.output:
            refuse_foreign_figures(Path(config.output))
        if not (samples := Path(config.samples)).is_file():
            others = ", ".join(file.name for file in sorted(samples.parent.glob("samples_*.jsonl")))
            raise ConfigError(f"there is no file {samples}" + (f"; beside it: {others}" if others else ""))
        found = rescore(samples)
        if config.output:
            refuse_lost_figures(Path(config.output), found)
            write_json(Path(config.output), found)
    except (ConfigError, ValueError, OSError) as error:
        print_error(f"score.py: error: {error}")
        return 2
    print_result(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    run_script(main)
