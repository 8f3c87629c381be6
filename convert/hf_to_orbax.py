"""Convert a Hugging Face folder (or hub id) to an Orbax folder.

    python convert/hf_to_orbax.py --src DIR --dst DIR --verify
    python convert/hf_to_orbax.py --src DIR --dst DIR --dtype bfloat16

Memory holds one stacked weight at a time. The same command resumes a conversion that was killed.
"""

import os

from pydantic import Field

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.sections import Texts
from socialr1_jax.runtime.terminal import run_script
from socialr1_jax.weights.conversion import ConvertConfig, convert, fingerprint, progress


class HfToOrbaxConfig(ConvertConfig):
    """The model to read and the folder to write."""

    ignore_fields: Texts = Field((), description="fields of config.json that are unknown here but harmless: [a, b]")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(HfToOrbaxConfig, argv, description="Convert a Hugging Face model folder to an Orbax folder.")
    from socialr1_jax.weights.checksums import (  # import JAX: once the arguments are right
        compare_sums,
        folder_sums,
        model_sums,
    )
    from socialr1_jax.weights.declared import map_weights
    from socialr1_jax.weights.hf_folder import open_hf
    from socialr1_jax.weights.orbax_folder import load_orbax, write_orbax

    def run() -> str:
        source = open_hf(config.src, dtype=config.dtype or None, ignore_fields=config.ignore_fields)
        weights: list[str] = []
        map_weights(source.config, lambda weight, layers, spec: weights.append(weight.hf_name))
        write_orbax(
            config.dst,
            source.config,
            source.dtypes(),
            source.read,
            source.folder,
            source=fingerprint(
                [source.folder / file for file in sorted({*source.files, "config.json"})],
                dtype=config.dtype,
                allow_nonfinite=config.allow_nonfinite,
            ),
            check=lambda: None if config.allow_nonfinite else source.refuse_nonfinite(),
            say=progress(len(weights), "stacked weight"),
        )
        if not config.verify:
            return ""
        return compare_sums(folder_sums(source), model_sums(load_orbax(config.dst, tokenizer=False)))

    return convert(config, run)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    run_script(main)
