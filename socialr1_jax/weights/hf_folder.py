"""Read Hugging Face folders. All headers are checked first, so that every fault is reported before weights are read."""

import json
import logging
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from safetensors import SafetensorError, safe_open

from socialr1_jax.models.qwen3 import Weight, check_mesh
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.mesh import P
from socialr1_jax.runtime.model_files import file_of, first_few
from socialr1_jax.runtime.ownership import TOKENIZER_FILES
from socialr1_jax.runtime.terminal import first_line, shown
from socialr1_jax.weights.declared import abstract_weight, expected_shapes, map_weights, tensor_names
from socialr1_jax.weights.hub import find_snapshot, is_hub_id
from socialr1_jax.weights.tokenizer_files import tokenizer_files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BLOCK = 8 << 20  # bytes mapped, copied and checked at once
_READERS = min(8, os.cpu_count() or 1)  # threads
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # as safetensors names them
_BUFFER = re.compile(r"(^|\.)rotary_emb\.(original_)?inv_freq$")  # in old files; redundant with rope_theta
log = logging.getLogger(__name__)


def open_hf(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = None,
    *,
    scalar_head: bool = False,
    ignore_fields: Collection[str] = (),
) -> "HfFolder":
    """Check a folder's configuration and headers without reading weights; arguments and errors as in `load_hf`.

    With `scalar_head` it must be a reward model, otherwise a language model; else raises ValueError.
    """
    if dtype not in (None, *_DTYPES.values()):
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES.values())} or None")
    folder = local_folder(path)
    raw = read_json(folder / "config.json")
    config = Qwen3Config.from_hf(raw, str(folder / "config.json"), ignore_fields)
    if config.scalar_head != scalar_head:
        kind = "language model: load_hf reads it, and socialr1 train-reward-model makes a reward model of it"
        kind = "reward model: load_reward_model reads it" if config.scalar_head else kind
        raise ValueError(f"{folder / 'config.json'}: architectures {shown(raw.get('architectures'))} is a {kind}")
    if mesh is not None:
        check_mesh(config, mesh)
    tokenizer_files(folder)  # refuse files that an export must not copy before reading weights
    source = HfFolder(folder, config, _find_tensors(folder, config), dtype, mesh)
    source.dtypes()  # raises if the layers of a weight differ
    return source


@dataclass(frozen=True)
class HfFolder:
    """A checked Hugging Face folder, from which declared weights are read one at a time."""

    folder: Path
    config: Qwen3Config
    places: Mapping[str, "_Place"]  # by declared tensor name
    dtype: str | None  # of the arrays that `read` returns; None: each weight's own
    mesh: Mesh | None
    # Tensors read so far with NaN or infinities; `too_large` are those among them that are finite in the files.
    nonfinite: set[str] = field(default_factory=set)
    too_large: set[str] = field(default_factory=set)

    @property
    def files(self) -> list[str]:
        """The names of the files that hold the weights."""
        return sorted({place.file for place in self.places.values()})

    def dtypes(self) -> dict[str, str]:
        """Return the dtypes of the results of `read`, by Hugging Face name.

        Raises ValueError naming every weight whose layers have different dtypes, if `dtype` is None.
        """
        kinds: dict[str, str] = {}
        mixed: list[str] = []

        def add(weight: Weight, layers: int | None, spec: P) -> None:
            stored = sorted({self.places[name].dtype.name for name in tensor_names(weight, layers)})
            kinds[weight.hf_name] = self.dtype or stored[0]
            if len(stored) > 1 and self.dtype is None:
                mixed.append(f"{weight.hf_name.replace('{i}', '*')} ({', '.join(stored)})")

        map_weights(self.config, add)
        if mixed:
            raise ValueError(
                f"{self.folder}: the layers of {', '.join(mixed)} have different dtypes and are stacked in one array: "
                "name one dtype (--dtype, or the argument dtype)"
            )
        return kinds

    def read(self, weight: Weight, layers: int | None, spec: P) -> jax.Array:
        """Read a weight onto the devices with its layers stacked; each device's part is read separately."""
        names = tensor_names(weight, layers)
        dtype = np.dtype(jnp.dtype(self.dtype)) if self.dtype else self.places[names[0]].dtype

        def part(index: Any) -> np.ndarray:
            """Return one device's part, with a single copy from the file's pages to the array."""
            chosen, inner = (names, index) if layers is None else (names[index[0]], index[1:])
            stack = _aligned_empty((len(chosen), *_sliced(weight.shape, inner)), dtype)
            blocks = [b for name, row in zip(chosen, stack, strict=True) for b in self._blocks(name, inner, row)]
            with ThreadPoolExecutor(_READERS) as pool:
                faults = list(zip(blocks, pool.map(_read_block, blocks), strict=True))
            self.nonfinite.update(block.name for block, fault in faults if fault is not None)
            self.too_large.update(block.name for block, fault in faults if fault == "too large")
            return stack[0] if layers is None else stack

        wanted = abstract_weight(weight, layers, spec, self.mesh, dtype)
        return jax.make_array_from_callback(wanted.shape, wanted.sharding, part)

    def _blocks(self, name: str, index: tuple[slice, ...], row: np.ndarray) -> Iterator["_Block"]:
        """Yield the part `index` of a tensor in blocks of at most _BLOCK bytes, each with its output array."""
        place = self.places[name]
        line = math.prod(place.shape[1:]) * place.dtype.itemsize
        first, last, _ = index[0].indices(place.shape[0])
        step = max(1, _BLOCK // line)
        for start in range(first, last, step):
            stop = min(start + step, last)
            piece = place._replace(offset=place.offset + start * line, shape=(stop - start, *place.shape[1:]))
            yield _Block(name, self.folder / place.file, piece, index[1:], row[start - first : stop - first])

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yield every declared tensor with its name, on the host and in `dtype`."""
        for name, place in self.places.items():
            tensor = _stored(self.folder, place)
            with np.errstate(over="ignore"):
                cast = tensor if self.dtype is None else tensor.astype(jnp.dtype(self.dtype))
            yield name, cast

    def refuse_nonfinite(self) -> None:
        """Raise ValueError naming every tensor read with NaN, infinities or too large numbers."""
        if self.too_large:
            raise ValueError(f"{self.folder}: {too_large_text(self.dtype or '', self.too_large)}")
        if self.nonfinite:
            raise ValueError(
                f"{self.folder}: NaN or infinities in {first_few(sorted(self.nonfinite), ', ')}; allow_nonfinite=True "
                "loads them all the same (on the command line --allow_nonfinite)"
            )


class _Place(NamedTuple):
    """Location of a tensor: the file, and name, dtype (as in `_DTYPES`), shape and offset of its data there."""

    file: str
    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(jnp.dtype(_DTYPES[self.kind]))


class _Block(NamedTuple):
    """Rows of a tensor in a file, the columns to read, and the output array."""

    name: str
    file: Path
    place: _Place
    columns: tuple[slice, ...]
    out: np.ndarray


def _read_block(block: _Block) -> Literal["not finite", "too large"] | None:
    """Fill `block.out`; return its fault: NaN or infinities, or numbers too large for its dtype.

    Each block is mapped separately, since mapped pages count as the process's memory once they are read.
    """
    place = block.place
    stored = np.memmap(block.file, place.dtype, "r", place.offset, place.shape)[:, *block.columns]
    with np.errstate(over="ignore"):
        block.out[...] = stored
    if all_finite(block.out):
        return None
    return "too large" if all_finite(np.ascontiguousarray(stored)) else "not finite"


def _places(file: Path) -> dict[str, _Place]:
    """Return the locations of the tensors in a safetensors file, by name: 8 bytes of size, a JSON header, data."""
    with safe_open(file, framework="np"), file.open("rb") as opened:  # safe_open checks header and size of the file
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {
        name: _Place(file.name, name, entry["dtype"], tuple(entry["shape"]), 8 + size + entry["data_offsets"][0])
        for name, entry in header.items()
    }


def _sliced(shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(size))) for size, part in zip(shape, index, strict=True))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array aligned to 64 bytes, which JAX on a CPU uses without a copy."""
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def too_large_text(dtype: str, names: Collection[str]) -> str:
    """Return a message about tensors with numbers too large for a dtype."""
    fix = "bfloat16 or float32" if dtype == "float16" else "float32"
    return f"numbers too large for {dtype} in {first_few(sorted(names), ', ')}: take {fix}"


def all_finite(block: np.ndarray) -> bool:
    """Return whether no number is NaN or infinite, by two maxima without a temporary array.

    NaN and infinities have an exponent of all ones, so as integers they are the largest: signed if positive, unsigned
    if negative.
    """
    infinity = np.array(np.inf, block.dtype)
    signed, unsigned = (np.dtype(f"{kind}{block.dtype.itemsize}") for kind in "iu")
    return bool(
        block.view(signed).max() < infinity.view(signed) and block.view(unsigned).max() < (-infinity).view(unsigned)
    )


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Return the folder, or the local snapshot of a hub id (downloaded unless HF_HUB_OFFLINE is set)."""
    name = os.path.expanduser(path)
    folder = Path(name)
    if folder.is_dir():
        if not file_of(folder, "config.json"):
            export = folder / "export"
            hint = f"; {export} is one, exported by a run" if file_of(export, "config.json") else ""
            raise FileNotFoundError(f"{folder} has no config.json: not a Hugging Face model folder{hint}")
        return folder
    if not is_hub_id(name):
        raise FileNotFoundError(f"no folder {name!r}, and it is not a hub id of the form owner/name")
    try:
        return find_snapshot(name, allow_patterns=["*.safetensors", INDEX, "config.json", *TOKENIZER_FILES])
    except Exception as error:  # many kinds: offline, no such model, no access
        reason = first_line(error)
        raise FileNotFoundError(f"no folder {name!r}, and the hub gave no model of that name: {reason}") from error


def files_dtype(folder: str | os.PathLike[str]) -> str:
    """Return the dtype of a model folder's embedding, which its kernels share. Raises as `load_hf`."""
    for file in _weight_files(folder := Path(folder))[0]:
        places = _places(folder / file)
        for name in (EMBEDDING, EMBEDDING.removeprefix("model.")):
            if name in places:
                return _DTYPES[places[name].kind]
    raise ValueError(f"{folder} has no {EMBEDDING}")


def _weight_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Return the files with the weights, and the index's map from tensor to file if there is an index."""
    if file_of(folder, WEIGHTS):
        return [WEIGHTS], None
    if not (index := file_of(folder, INDEX)):
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}: save the model as safetensors")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ValueError(f"{index} has no weight_map from tensor names to file names")
    files = sorted(set(weight_map.values()))
    if outside := [file for file in files if "/" in file]:
        raise ValueError(f"{index} names {shown(outside[0])}: name only files of this folder")
    return files, weight_map


def _find_tensors(folder: Path, config: Qwen3Config) -> dict[str, _Place]:
    """Locate every declared tensor, after checking every file and every tensor's presence and shape."""
    files, weight_map = _weight_files(folder)
    if weight_map is None and (folder / INDEX).exists():
        log.warning("%s: reading %s, as transformers does, and not the files of %s", folder, WEIGHTS, INDEX)
    problems: list[str] = []
    unreadable: set[str] = set()
    found: dict[str, _Place] = {}
    for file in files:
        try:
            there = file_of(folder, file)
            places = _places(there) if there else {}
            problem = "" if there else f"file {file} is named in {INDEX} but absent"
        except (SafetensorError, OSError) as error:
            problem = f"file {file} is cut or damaged ({error})"
        except ValueError as error:  # not a file of this folder
            problem = str(error)
        if problem:
            problems.append(problem)
            unreadable.add(file)
            continue
        places = {name: place for name, place in places.items() if not _BUFFER.search(name)}
        twice = sorted(set(places) & set(found))
        problems += [f"{name} is in both {found[name].file} and {file}" for name in twice]
        found |= places
    expected = expected_shapes(config)
    stored: dict[str, str] = {}  # declared name -> name in the files
    for name in sorted(found):
        declared = _declared_name(name, expected)
        if declared in stored:
            problems.append(f"{declared} is there twice, as {stored[declared]} and as {name}")
        stored[declared] = name
    # The tensors of a file that is absent or cut would all be "missing": the file says it once.
    lost = set(expected) if weight_map is None and unreadable else set()
    if weight_map is not None:
        absent = {name for name, file in weight_map.items() if file in unreadable}
        lost = {_declared_name(name, expected) for name in absent}
        gone = {name for name in set(weight_map) - set(found) - absent if not _BUFFER.search(name)}
        problems += [f"{name} is listed in {INDEX} but in no file" for name in sorted(gone)]
        problems += [
            f"{name} is in {found[name].file}, but {INDEX} looks for it in {file}"
            for name, file in sorted(weight_map.items())
            if name in found and found[name].file != file
        ]
    missing = sorted(set(expected) - set(stored) - lost)
    problems += [f"missing tensor {name} {list(expected[name])}" for name in missing]
    for declared, name in sorted(stored.items()):
        place, shape = found[name], found[name].shape
        if place.kind not in _DTYPES:
            problems.append(f"{name} has dtype {place.kind}; supported: {', '.join(_DTYPES)}")
        elif declared == _HEAD and config.tie_word_embeddings:
            tied = found.get(stored.get(EMBEDDING, ""))
            if tied and tied.kind in _DTYPES and not _same_numbers(folder, place, tied):
                problems.append("lm_head.weight differs from the embedding although tie_word_embeddings is true")
        elif declared not in expected:
            problems.append(f"unexpected tensor {name} {list(shape)}")
        elif shape != expected[declared]:
            problems.append(f"{name} has shape {list(shape)}, config.json asks for {list(expected[declared])}")
    if problems:
        raise ValueError(f"{folder} cannot be loaded: {first_few(problems)}")
    return {name: found[stored[name]] for name in expected}


def _declared_name(name: str, expected: Collection[str]) -> str:
    """Add the prefix `model.` to a tensor's name, which is missing if only the body was saved."""
    return f"model.{name}" if name not in expected and f"model.{name}" in expected else name


def _same_numbers(folder: Path, *places: _Place) -> bool:
    """Return whether two tensors are equal (NaN equals NaN) or, in different dtypes, one is a cast of the other."""

    one, other = (_stored(folder, place) for place in places)
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and np.array_equal(as_bytes(one), as_bytes(other)):
        return True
    with np.errstate(over="ignore"):
        casts = (one, other.astype(one.dtype)), (one.astype(other.dtype), other)
    return any(np.array_equal(left, right, equal_nan=True) for left, right in casts)


def _stored(folder: Path, place: _Place) -> np.ndarray:
    with safe_open(folder / place.file, framework="np") as opened:
        return opened.get_tensor(place.name)


def as_bytes(tensor: np.ndarray) -> np.ndarray:
    """Return the bytes of a tensor, as an array."""
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
