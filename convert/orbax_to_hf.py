"""An Orbax folder of `hf_to_orbax.py`, or a checkpoint of a run, as a Hugging Face folder.

    python convert/orbax_to_hf.py --src DIR --dst DIR --verify
    python convert/orbax_to_hf.py --src runs/mine --step best --dst runs/mine/best

A conversion that was killed goes on behind the last whole file when called again.
"""

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import Field

from socialr1_jax.command_line import parse_args
from socialr1_jax.conversion import ConvertConfig, convert, fingerprint, progress


class OrbaxToHfConfig(ConvertConfig):
    """Where a model lies and where it goes."""

    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field("", description='of the files; "" keeps the source\'s')
    allow_nonfinite: bool = Field(False, description="convert weights that hold NaN or infinities, too")
    max_file_bytes: int = Field(5_000_000_000, ge=1, description="tensors that make a file larger begin a new one")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(OrbaxToHfConfig, argv, description="Convert an Orbax folder to a Hugging Face model folder.")
    from socialr1_jax.checksums import compare, folder_sums, model_sums  # import JAX: once the arguments are right
    from socialr1_jax.hf import open_hf, refuse_nonfinite, save_hf
    from socialr1_jax.orbax_folder import MANIFEST, load_orbax
    from socialr1_jax.training.run_weights import find_checkpoint, is_run, load_policy

    def run() -> str:
        folder = Path(config.src)
        if is_run(folder):
            folder = find_checkpoint(folder, config.step)
            model = load_policy(folder)
        else:
            model = load_orbax(folder)
        dtype = config.dtype or model.dtype.name
        if not config.allow_nonfinite:
            refuse_nonfinite(model, dtype)
        source = fingerprint([folder / MANIFEST], dtype=dtype, max_file_bytes=config.max_file_bytes)
        save_hf(model, config.dst, dtype, config.max_file_bytes, source=source, say=progress)
        if not config.verify:
            return ""
        written = open_hf(config.dst)
        return compare(model_sums(model, dtype), folder_sums(written.folder, written.home))

    return convert(config, run)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    sys.exit(main())
