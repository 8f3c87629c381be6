"""Convert between Hugging Face and Orbax folders, including checkpoints of runs."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from socialr1_jax.config.commands import ConvertConfig, HfToOrbaxConfig, OrbaxToHfConfig
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.run.weights import find_checkpoint, is_run, load_policy
from socialr1_jax.runtime.terminal import counted, print_error, print_line
from socialr1_jax.weights.declared import tensors
from socialr1_jax.weights.hf_export import fetched, refuse_nonfinite, save_hf
from socialr1_jax.weights.hf_folder import as_bytes, open_hf
from socialr1_jax.weights.orbax_folder import MANIFEST, load_orbax, write_orbax

_QUIET_SECONDS = 5.0  # between two lines of progress


def hf_to_orbax(config: HfToOrbaxConfig) -> None:
    """Convert a Hugging Face folder or hub id to an Orbax folder, and print the result of the verification.

    Holds one stacked weight in memory at a time. Raises OSError or ValueError; an earlier folder then stays unchanged.
    """
    started = time.monotonic()
    source = open_hf(config.src, dtype=config.dtype or None, ignore_fields=config.ignore_fields)
    dtypes, files = source.dtypes(), [source.folder / file for file in sorted({*source.files, "config.json"})]
    write_orbax(
        config.dst,
        source.config,
        dtypes,
        source.read,
        source.folder,
        source=_fingerprint(files, dtype=config.dtype, allow_nonfinite=config.allow_nonfinite),
        check=lambda: None if config.allow_nonfinite else source.refuse_nonfinite(),
        say=_progress(len(dtypes), "stacked weight"),
    )
    _finish(config, started, lambda: (_sums(source.tensors()), _model_sums(load_orbax(config.dst, tokenizer=False))))


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
    _finish(config, started, lambda: (_model_sums(model, dtype), _sums(open_hf(config.dst).tensors())))


def _finish(config: ConvertConfig, started: float, sums: Callable[[], tuple[dict[str, str], dict[str, str]]]) -> None:
    """Print the result. With `config.verify`, compare the checksums of source and result; ValueError if any differs."""
    lines = []
    if config.verify:
        source, written = sums()
        differing = [name for name in sorted({*source, *written}) if source.get(name) != written.get(name)]
        if differing:
            raise ValueError(f"{len(differing)} of {counted(len(source), 'tensor')} differ: {', '.join(differing)}")
        lines = [f"verified: the SHA-256 of all {len(source)} tensors agree"]
    print_line("\n".join([f"{config.dst}: converted from {config.src} in {time.monotonic() - started:.0f} s", *lines]))


def _model_sums(model: Qwen3, dtype: str | None = None) -> dict[str, str]:
    return _sums(fetched(model, list(tensors(model)), dtype))


def _sums(named_tensors: Iterable[tuple[str, np.ndarray]]) -> dict[str, str]:
    """Return the SHA-256 of each tensor's bytes, by name."""
    return {name: hashlib.sha256(as_bytes(tensor).data).hexdigest() for name, tensor in named_tensors}


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
