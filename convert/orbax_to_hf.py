"""An Orbax folder of `hf_to_orbax.py` as a Hugging Face folder; weights keep their dtype.

python convert/orbax_to_hf.py --src DIR --dst DIR
"""

from __future__ import annotations

import os
import sys

from socialr1_jax.command_line import parse_args
from socialr1_jax.conversion import ConvertConfig, convert


def main(argv: list[str] | None = None) -> int:
    config = parse_args(ConvertConfig, argv, description="Convert an Orbax folder to a Hugging Face model folder.")
    from socialr1_jax.hf import save_hf  # imports JAX: only once the arguments are right
    from socialr1_jax.orbax_folder import load_orbax

    return convert(config, load_orbax, save_hf)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    sys.exit(main())
