"""Write generated stories as question files."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from socialr1_jax.config.stories import MakeStoriesConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.ownership import begins_as, refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, print_result
from socialr1_jax.stories.stories import generate_stories

_BEGIN = b'{"id": "stories-'


def write_stories(examples: Sequence[Example], file: Path) -> None:
    """Write the examples as a question file (JSON lines). Raises OSError."""
    rows = [asdict(example) | {"meta": dict(example.meta)} for example in examples]
    for row in rows:
        del row["messages"]  # empty: the card's prompt is built from the other fields
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def write_generated(config: MakeStoriesConfig) -> None:
    """Generate the stories, write them to `config.output` and print their number.

    Raises ForeignFile if the output is a file of another kind, and ValueError for settings that do not fit together.
    """
    file = Path(config.output)
    if file.suffix != ".jsonl":
        raise ValueError(f"--output {file}: give a name that ends in .jsonl")
    refuse_foreign_file(file, partial(begins_as, begin=_BEGIN), "a file of generated stories")
    examples = generate_stories(
        config.count,
        seed=config.seed,
        split=config.split,
        hold_out_plots=config.hold_out_plots,
        hold_out_names=config.hold_out_names,
        **config.stories.arguments(),
    )
    write_stories(examples, file)
    print_result(f"{counted(len(examples), 'question')} in {file}")
