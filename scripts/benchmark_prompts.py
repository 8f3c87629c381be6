"""Read the wording of a benchmark's prompts out of its authors' repository, so that `official` asks in their words.

    git clone https://github.com/zhchen18/ToMBench checkout && git -C checkout checkout 4f491f0
    python scripts/benchmark_prompts.py --benchmark tombench --source checkout --output data/tombench/prompts.json

Their files are read as text; nothing in them is run. docs/evaluation.md.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.sections import Section
from socialr1_jax.evaluation.wording import content_of, refuse_foreign_prompts
from socialr1_jax.evaluation.wording_sources import SOURCES
from socialr1_jax.runtime.files import write_json
from socialr1_jax.runtime.terminal import print_error, print_result, run_script


class BenchmarkPromptsConfig(Section):
    """Which benchmark's wording, from where, and the file to write."""

    benchmark: str = Field(description=f"name of the benchmark: {', '.join(SOURCES)}")
    source: str = Field(min_length=1, description="folder of the authors' repository, at the version in the docs")
    output: str = Field(min_length=1, description="file to write: prompts.json in the benchmark's folder of data_dir")

    @field_validator("benchmark")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SOURCES:
            raise ValueError(f"{name!r} is none of {', '.join(SOURCES)}")
        return name


def main(argv: list[str] | None = None) -> int:
    description = "Read the wording of a benchmark's prompts out of its authors' repository."
    config = parse_args(BenchmarkPromptsConfig, argv, description=description)
    output = Path(config.output)
    try:
        refuse_foreign_prompts(output)
        content = content_of(config.benchmark, Path(config.source))
        write_json(output, content)
    except (OSError, ValueError) as error:
        print_error(f"benchmark_prompts.py: error: {error}")
        return 2
    print_result(f"{len(content['texts'])} texts of {content['source']} in {output}, SHA-256 {content['sha256']}")
    if content["sha256"] not in {source.known for source in SOURCES[config.benchmark].versions}:
        print_error(f"benchmark_prompts.py: {config.source} is not {content['source']}: figures may not compare")
    return 0


if __name__ == "__main__":
    run_script(main)
