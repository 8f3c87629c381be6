"""Convert an Orbax folder of `hf_to_orbax.py`, or a checkpoint of a run, to a Hugging Face folder.

    python convert/orbax_to_hf.py --src DIR --dst DIR --verify
    python convert/orbax_to_hf.py --src runs/mine --step best --dst runs/mine/best

The same command resumes a killed conversion behind the last whole file.
"""

import os
from pathlib import Path

from pydantic import Field

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.runtime.terminal import print_line, run_script
from socialr1_jax.weights.conversion import ConvertConfig, convert, fingerprint, progress


class OrbaxToHfConfig(ConvertConfig):
    """The model to read and the folder to write."""

    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    max_file_bytes: int = Field(5_000_000_000, ge=1, description="tensors that make a file larger begin a new one")


def main(argv: list[str] | None = None) -> int:
    config = parse_args(OrbaxToHfConfig, argv, description="Convert an Orbax folder to a Hugging Face model folder.")
    from socialr1_jax.run.weights import find_checkpoint, is_run, load_policy
    from socialr1_jax.weights.checksums import (  # import JAX: once the arguments are right
        compare_sums,
        folder_sums,
        model_sums,
    )
    from socialr1_jax.weights.hf_export import refuse_nonfinite, save_hf
    from socialr1_jax.weights.hf_folder import open_hf
    from socialr1_jax.weights.orbax_folder import MANIFEST, load_orbax

    def run() -> str:
        folder = Path(config.src)
        if is_run(folder):
            folder = find_checkpoint(folder, config.step)
            print_line(f"the checkpoint is {folder}")
            model = load_policy(folder, tokenizer=False)
        else:
            model = load_orbax(folder, tokenizer=False)
        dtype = config.dtype or None
        if not config.allow_nonfinite:
            refuse_nonfinite(model, dtype)
        source = fingerprint([folder / MANIFEST], dtype=config.dtype, max_file_bytes=config.max_file_bytes)
        save_hf(model, config.dst, dtype, config.max_file_bytes, source=source, say=progress)
        if not config.verify:
            return ""
        return compare_sums(model_sums(model, dtype), folder_sums(open_hf(config.dst)))

    return convert(config, run)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the host has room for models that one device has not
    run_script(main)
