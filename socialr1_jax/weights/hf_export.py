"""Write Hugging Face folders atomically: into a temporary folder next to the target, which is then renamed."""

import errno
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.models.reward_model import RewardModel
from socialr1_jax.runtime.files import BYTE_ORDER_MARK, sync, whole_folder, write_json
from socialr1_jax.runtime.mesh import fetch
from socialr1_jax.runtime.model_files import first_few
from socialr1_jax.weights.declared import expected_shapes, tensors
from socialr1_jax.weights.hf_folder import INDEX, WEIGHTS, all_finite, too_large_text
from socialr1_jax.weights.tokenizer_files import tokenizer_files


def save_hf(
    model: Qwen3 | RewardModel,
    directory: str | os.PathLike[str],
    dtype: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    source: Mapping[str, Any] | None = None,
    say: Callable[[int], Callable[[str], None]] = lambda total: lambda name: None,
) -> None:
    """Write a Hugging Face folder: safetensors, config.json and the tokenizer files of the model's source folder.

    An existing model folder is replaced; any other non-empty folder raises FileExistsError. All processes must call
    this; the first one writes.

    Args:
        directory: the folder to write; it may start with `~` or be a symbolic link to a folder.
        dtype: type of the weights in the files; None keeps each array's own.
        max_file_bytes: size limit of a file; larger models get several files and an index.
        source: description of the input; an equal call resumes an interrupted one (`whole_folder` in runtime/files.py).
        say: called with the number of files; its result is called with each file's name.
    """
    if jax.process_index():  # other processes only take part in the all-gathers
        for _, names in _file_groups(model, dtype, max_file_bytes):
            for _ in fetched(model, list(names), dtype):
                pass
        return
    with whole_folder(directory, marker="config.json", source=source) as partial:
        _write_weights(model, partial, dtype, max_file_bytes, say)
        write_json(partial / "config.json", model.config.to_hf(dtype or model.embed_tokens.get_value().dtype.name))
        copy_tokenizer_files(Path(model.source) if model.source else None, partial)


def save_reward_model(model: RewardModel, directory: str | os.PathLike[str], dtype: str | None = None) -> None:
    """Write a Qwen3ForSequenceClassification folder with one label; see `save_hf`.

    Raises ValueError if the model has no pad_token_id, by which transformers finds a row's last token.
    """
    if model.config.pad_token_id is None:
        raise ValueError(
            "the reward model's config has no pad_token_id, by which transformers finds the last token of a row: give "
            "init_reward_model the tokenizer's"
        )
    save_hf(model, directory, dtype)


def copy_tokenizer_files(source: Path | None, folder: Path) -> None:
    """Copy the tokenizer files from a model's source folder, if it has one.

    Byte order marks are removed, since transformers cannot read them. Raises ValueError for a link out of the folder:
    exports are published, and the target may be secret.
    """
    for file in tokenizer_files(source) if source else ():
        (folder / file.name).write_bytes(file.read_bytes().removeprefix(BYTE_ORDER_MARK))
        sync(folder / file.name)


def refuse_nonfinite(model: Qwen3 | RewardModel, dtype: str | None = None) -> None:
    """Raise ValueError naming every tensor with NaN, infinities, or numbers too large for `dtype` (None: its own)."""
    spoiled = [name for name, x in fetched(model, sorted(tensors(model)), dtype) if not all_finite(x)]
    too_large = [name for name, x in fetched(model, spoiled) if all_finite(x)]
    if too_large:
        raise ValueError(too_large_text(dtype or "", too_large))
    if spoiled:
        raise ValueError(
            f"NaN or infinities in {first_few(spoiled, ', ')} (--allow_nonfinite converts them all the same)"
        )


def fetched(
    model: Qwen3 | RewardModel, names: Sequence[str], dtype: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the named tensors on this host, in `dtype` (None: each in its own)."""
    home = tensors(model)
    for name in names:
        array, layer = home[name]
        value = fetch(array if layer is None else array[layer])
        with np.errstate(over="ignore"):  # `refuse_nonfinite` reports overflows
            value = value if dtype is None else value.astype(jnp.dtype(dtype), copy=False)
        yield name, value


def _file_groups(
    model: Qwen3 | RewardModel, dtype: str | None, max_file_bytes: int
) -> list[tuple[str, dict[str, int]]]:
    """Return (file name, its tensors with their bytes) for an export, sorted by tensor name."""
    home, groups = tensors(model), list[dict[str, int]]([{}])
    for name, shape in sorted(expected_shapes(model.config).items()):
        nbytes = math.prod(shape) * jnp.dtype(dtype or home[name][0].dtype).itemsize
        if groups[-1] and sum(groups[-1].values()) + nbytes > max_file_bytes:
            groups.append({})
        groups[-1][name] = nbytes
    if len(groups) == 1:
        return [(WEIGHTS, groups[0])]
    return [(f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors", names) for i, names in enumerate(groups)]


def _write_weights(
    model: Qwen3 | RewardModel,
    folder: Path,
    dtype: str | None,
    max_file_bytes: int,
    say: Callable[[int], Callable[[str], None]],
) -> None:
    groups = _file_groups(model, dtype, max_file_bytes)
    begin = say(len(groups))
    for file, names in groups:  # one file's tensors on the host at a time
        begin(file)
        if (folder / file).exists():  # complete, from an interrupted call
            continue
        unfinished = folder / f"{file}.unfinished"
        try:
            save_file(dict(fetched(model, list(names), dtype)), unfinished, metadata={"format": "pt"})
        except SafetensorError as error:  # raised for a full disk, too
            raise OSError(errno.EIO, str(error), str(unfinished)) from error
        sync(unfinished)
        unfinished.rename(folder / file)
    if len(groups) > 1:
        total = sum(sum(names.values()) for _, names in groups)
        weight_map = {name: file for file, names in groups for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
