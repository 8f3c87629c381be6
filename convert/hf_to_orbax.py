"""A Hugging Face folder (or hub id) as an Orbax folder; weights keep their dtype.

python convert/hf_to_orbax.py --src DIR --dst DIR
"""

from __future__ import annotations

import os
import sys
from functools import partial

from socialr1_jax.command_line import parse_args
from socialr1_jax.conversion import ConvertConfig, convert


def main(argv: list[str] | None = None) -> int:
    config = parse_args(ConvertConfig, argv, description="Convert a Hugging Face model folder to an Orbax folder.")
    from socialr1_jax.hf import load_hf  # imports JAX: only once the arguments are right
    from socialr1_jax.orbax_folder import save_orbax

    return convert(config, partial(load_hf, dtype=None), save_orbax)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    sys.exit(main())
