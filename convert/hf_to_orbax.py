"""A Hugging Face folder (or hub id) as an Orbax folder; weights keep their dtype.

    python convert/hf_to_orbax.py --src DIR --dst DIR --verify

Memory holds one stacked weight at a time. A conversion that was killed goes on where it was when called again.
"""

import os
import sys

from pydantic import Field

from socialr1_jax.command_line import parse_args
from socialr1_jax.conversion import ConvertConfig, convert, fingerprint, progress


class HfToOrbaxConfig(ConvertConfig):
    """Where a model lies and where it goes."""

    allow_nonfinite: bool = Field(False, description="convert weights that hold NaN or infinities, too")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(HfToOrbaxConfig, argv, description="Convert a Hugging Face model folder to an Orbax folder.")
    from socialr1_jax.checksums import compare, folder_sums, model_sums  # import JAX: once the arguments are right
    from socialr1_jax.hf import map_weights, open_hf
    from socialr1_jax.orbax_folder import load_orbax, write_orbax

    def run() -> str:
        source = open_hf(config.src)
        weights: list[str] = []
        map_weights(source.config, lambda weight, layers, spec: weights.append(weight.hf_name))
        write_orbax(
            config.dst, source.config, source.dtype.name, source.read, source.folder,
            source=fingerprint([source.folder / file for file in sorted({*source.home.values(), "config.json"})]),
            check=lambda: None if config.allow_nonfinite else source.refuse_nonfinite(),
            say=progress(len(weights)),
        )  # fmt: skip
        if not config.verify:
            return ""
        return compare(folder_sums(source.folder, source.home), model_sums(load_orbax(config.dst)))

    return convert(config, run)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    sys.exit(main())
