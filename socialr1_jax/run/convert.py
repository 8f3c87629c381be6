"""Convert between Hugging Face and Orbax folders, including checkpoints of runs."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.config.commands import ConvertConfig, HfToOrbaxConfig, OrbaxToHfConfig
from socialr1_jax.run.weights import find_checkpoint, is_run, load_policy
from socialr1_jax.runtime.terminal import print_error, print_line
from socialr1_jax.weights.checksums import compare_sums, folder_sums, model_sums
from socialr1_jax.weights.declared import map_weights
from socialr1_jax.weights.hf_export import refuse_nonfinite, save_hf
from socialr1_jax.weights.hf_folder import open_hf
from socialr1_jax.weights.orbax_folder import MANIFEST, load_orbax, write_orbax

_QUIET_SECONDS = 5.0  # between two lines of progress


def hf_to_orbax(config: HfToOrbaxConfig) -> None:
    """Convert a Hugging Face folder or hub id to an Orbax folder, and print the result of the verification.

    Holds one stacked weight in memory at a time. Raises OSError or ValueError; an earlier folder then stays unchanged.
    """
    started = time.monotonic()
    source = open_hf(config.src, dtype=config.dtype or None, ignore_fields=config.ignore_fields)
    weights: list[str] = []
    map_weights(source.config, lambda weight, layers, spec: weights.append(weight.hf_name))
    write_orbax(
        config.dst,
        source.config,
        source.dtypes(),
        source.read,
        source.folder,
        source=_fingerprint(
            [source.folder / file for file in sorted({*source.files, "config.json"})],
            dtype=config.dtype,
            allow_nonfinite=config.allow_nonfinite,
        ),
        check=lambda: None if config.allow_nonfinite else source.refuse_nonfinite(),
        say=_progress(len(weights), "stacked weight"),
    )
    _finish(
        config, started, lambda: compare_sums(folder_sums(source), model_sums(load_orbax(config.dst, tokenizer=False)))
    )


def orbax_to_hf(config: OrbaxToHfConfig) -> None:
    """Convert an Orbax folder or a run's checkpoint to a Hugging Face folder, and print the verification.

    Raises OSError or ValueError; an earlier folder then stays unchanged.
    """
    started = time.monotonic()
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
    source = _fingerprint([folder / MANIFEST], dtype=config.dtype, max_file_bytes=config.max_file_bytes)
    save_hf(model, config.dst, dtype, config.max_file_bytes, source=source, say=_progress)
    _finish(config, started, lambda: compare_sums(model_sums(model, dtype), folder_sums(open_hf(config.dst))))


def _finish(config: ConvertConfig, started: float, verify: Callable[[], str]) -> None:
    verified = verify() if config.verify else ""
    lines = [f"{config.dst}: converted from {config.src} in {time.monotonic() - started:.0f} s", verified]
    print_line("\n".join(filter(None, lines)))


def _fingerprint(files: Sequence[Path], **settings: Any) -> dict[str, Any]:
    """Return the inputs of a conversion: settings, file names, sizes, times. It resumes only if they are equal."""
    states = {str(file.resolve()): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    return {"files": states, **settings}


def _progress(total: int, part: str = "file") -> Callable[[str], None]:
    """Return a function that reports on stderr, every few seconds, which of `total` parts is being written."""
    done, printed = 0, 0.0

    def say(name: str) -> None:
        nonlocal done, printed
        done += 1
        if time.monotonic() - printed > _QUIET_SECONDS or done == total:
            printed = time.monotonic()
            print_error(f"{part} {done} of {total}: {name}")

    return say
