"""Read and write Qwen3 folders of Hugging Face: safetensors weights, config.json, tokenizer files.

Loading reads every header first and reports all that is wrong at once, before any weight is read. Saving writes a
temporary folder beside the target and renames it, so a folder is there whole or not at all.
"""

import errno
import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from socialr1_jax.models.qwen3 import (
    Params,
    Qwen3,
    Qwen3Config,
    Weight,
    check_mesh,
    declare_weights,
    init_params,
    weight_specs,
)
from socialr1_jax.models.reward_model import RewardModel
from socialr1_jax.models.shapes import SHAPES, named_shape
from socialr1_jax.runtime.files import BYTE_ORDER_MARK, read_json, sync, whole_folder, write_json
from socialr1_jax.runtime.mesh import P, fetch
from socialr1_jax.runtime.model_files import file_of, listed
from socialr1_jax.runtime.ownership import TOKENIZER_FILES
from socialr1_jax.runtime.terminal import printable, shown
from socialr1_jax.weights.hub import find_snapshot, is_hub_id
from socialr1_jax.weights.tokenizer_files import count_tokens, has_tokenizer, tokenizer_files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_BLOCK = 8 << 20  # bytes of a file that are mapped, copied and checked together
_READERS = min(8, os.cpu_count() or 1)  # threads
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_BUFFER = re.compile(r"(^|\.)rotary_emb\.(original_)?inv_freq$")  # old files hold what rope_theta says already
log = logging.getLogger(__name__)


def load_hf(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = "float32",
    *,
    allow_nonfinite: bool = False,
    ignore_fields: Collection[str] = (),
) -> Qwen3:
    """Reads a Qwen3 from a Hugging Face folder or hub id.

    With a mesh, every weight has the layout "train" (models/qwen3.py), and each process reads only the slices that its
    devices hold.

    Args:
        path: the folder, which may start with `~`, or a hub id.
        mesh: the devices; None is the first one.
        dtype: of the arrays ("float32", "bfloat16", "float16"); None keeps each weight's own.
        allow_nonfinite: accept weights that hold NaN or infinities.
        ignore_fields: unknown fields of config.json that cannot change the forward pass.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one line with the missing, unexpected, mis-shaped, doubled or unreadable tensors (the first 20 and
            how many more), those that hold NaN or infinities, what is wrong in config.json or the tokenizer's files,
            or the sizes that the mesh does not divide. A link out of the folder is refused.
    """
    source = open_hf(path, mesh, dtype, ignore_fields=ignore_fields)
    num_tokens = count_tokens(source.folder, source.config.vocab_size)  # before the weights are read
    params = map_weights(source.config, source.read)
    if not allow_nonfinite:
        source.refuse_nonfinite()
    return Qwen3(source.config, params, source=str(source.folder), num_tokens=num_tokens)


def load_reward_model(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = "float32",
    *,
    ignore_fields: Collection[str] = (),
) -> RewardModel:
    """Reads a reward model, a folder or hub id of a Qwen3ForSequenceClassification with one label; as `load_hf`."""
    source = open_hf(path, mesh, dtype, scalar_head=True, ignore_fields=ignore_fields)
    params = map_weights(source.config, source.read)
    source.refuse_nonfinite()
    return RewardModel(source.config, params, source=str(source.folder))


def init_reward_model(model: Qwen3, key: jax.Array, pad_token_id: int | None = None) -> RewardModel:
    """Puts a fresh scalar head on the language model's body (its own arrays): normal, deviation 1 / sqrt(d + 1)
    (Stiennon et al., arXiv 2009.01325, appendix B).

    `pad_token_id`, the tokenizer's, stands in for one that the model's config.json leaves out.
    """
    config = replace(
        model.config,
        scalar_head=True,
        pad_token_id=model.config.pad_token_id if model.config.pad_token_id is not None else pad_token_id,
    )
    d, norm = config.hidden_size, model.norm.get_value()
    score = (d + 1) ** -0.5 * jax.random.normal(key, (1, d), model.dtype)
    if isinstance(norm.sharding, NamedSharding):
        score = jax.device_put(np.asarray(score), NamedSharding(norm.sharding.mesh, weight_specs(config)["score"]))
    params = {name: value for name, value in model.params.items() if name != "lm_head"}
    return RewardModel(config, params | {"score": score}, source=model.source)


def open_hf(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = None,
    *,
    scalar_head: bool = False,
    ignore_fields: Collection[str] = (),
) -> "HfFolder":
    """Checks a folder's configuration and headers without reading weights; arguments and errors as of `load_hf`.

    `scalar_head`: a reward model is wanted. The other kind raises ValueError.
    """
    if dtype not in (None, *_DTYPES.values()):
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES.values())} or None")
    folder = local_folder(path)
    raw = read_json(folder / "config.json")
    config = Qwen3Config.from_hf(raw, str(folder / "config.json"), ignore_fields)
    if config.scalar_head != scalar_head:
        found, reader = (
            ("a reward model", "load_reward_model") if config.scalar_head else ("a language model", "load_hf")
        )
        fix = "" if config.scalar_head else ", and socialr1 train-reward-model makes a reward model of it"
        raise ValueError(
            f"{folder / 'config.json'}: architectures {shown(raw.get('architectures'))} is {found}: {reader} reads it"
            f"{fix}"
        )
    if mesh is not None:
        check_mesh(config, mesh)
    tokenizer_files(folder)  # an export copies them: one that it must not copy is refused before weights are read
    source = HfFolder(folder, config, _find_tensors(folder, config), dtype, mesh)
    source.dtypes()  # raises where the layers of a weight differ
    return source


@dataclass(frozen=True)
class HfFolder:
    """A checked Hugging Face folder that hands out one declared weight at a time."""

    folder: Path
    config: Qwen3Config
    places: Mapping[str, "_Place"]  # by declared tensor name
    dtype: str | None  # of the arrays that `read` gives; None: each weight's own
    mesh: Mesh | None
    # Tensors with NaN or infinities in what was read so far, and of these the ones that the files hold as numbers.
    nonfinite: set[str] = field(default_factory=set)
    too_large: set[str] = field(default_factory=set)

    @property
    def files(self) -> list[str]:
        """The names of the files that hold the weights."""
        return sorted({place.file for place in self.places.values()})

    def dtypes(self) -> dict[str, str]:
        """Returns the dtype of what `read` gives, by the weights' Hugging Face names.

        Raises ValueError naming every weight whose layers have different dtypes when none is asked for.
        """
        kinds: dict[str, str] = {}
        mixed: list[str] = []

        def add(weight: Weight, layers: int | None, spec: P) -> None:
            stored = sorted({self.places[name].dtype.name for name in _tensor_names(weight, layers)})
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
        """Reads the weight onto the devices, the layers stacked; each device's part is read on its own."""
        names = _tensor_names(weight, layers)
        dtype = np.dtype(jnp.dtype(self.dtype)) if self.dtype else self.places[names[0]].dtype

        def part(index: Any) -> np.ndarray:
            """Returns what one device holds, filled tensor by tensor: one copy, from the file's pages to the array."""
            chosen, inner = (names, index) if layers is None else (names[index[0]], index[1:])
            stack = _aligned_empty((len(chosen), *_sliced(weight.shape, inner)), dtype)
            blocks = [b for name, row in zip(chosen, stack, strict=True) for b in self._blocks(name, inner, row)]
            with ThreadPoolExecutor(_READERS) as pool:
                faults = list(zip(blocks, pool.map(_read_block, blocks), strict=True))
            self.nonfinite.update(block.name for block, fault in faults if fault is not None)
            self.too_large.update(block.name for block, fault in faults if fault == "too large")
            return stack[0] if layers is None else stack

        shape = weight.shape if layers is None else (layers, *weight.shape)
        device = jax.devices()[0]
        sharding = SingleDeviceSharding(device) if self.mesh is None else NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(shape, sharding, part)

    def _blocks(self, name: str, index: tuple[slice, ...], row: np.ndarray) -> Iterator["_Block"]:
        """Cuts the part `index` of a tensor into pieces of at most _BLOCK bytes, each with the array that takes it."""
        place = self.places[name]
        line = math.prod(place.shape[1:]) * place.dtype.itemsize
        first, last, _ = index[0].indices(place.shape[0])
        step = max(1, _BLOCK // line)
        for start in range(first, last, step):
            stop = min(start + step, last)
            piece = place._replace(offset=place.offset + start * line, shape=(stop - start, *place.shape[1:]))
            yield _Block(name, self.folder / place.file, piece, index[1:], row[start - first : stop - first])

    def refuse_nonfinite(self) -> None:
        """Raises ValueError naming every tensor that was read and holds NaN, infinities or too large numbers."""
        if self.too_large:
            raise ValueError(f"{self.folder}: {_too_large(self.dtype or '', self.too_large)}")
        if self.nonfinite:
            raise ValueError(
                f"{self.folder}: NaN or infinities in {listed(sorted(self.nonfinite), ', ')}; allow_nonfinite=True "
                "loads them all the same (on the command line --allow_nonfinite)"
            )


def _too_large(dtype: str, names: Collection[str]) -> str:
    fix = "bfloat16 or float32" if dtype == "float16" else "float32"
    return f"numbers too large for {dtype} in {listed(sorted(names), ', ')}: take {fix}"


def _tensor_names(weight: Weight, layers: int | None) -> list[str]:
    return [weight.hf_name] if layers is None else [weight.hf_name.format(i=i) for i in range(layers)]


class _Place(NamedTuple):
    """Place of a tensor: the file, its name there, the offset of its data."""

    file: str
    name: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]


class _Block(NamedTuple):
    """Whole rows of one tensor's file, the columns of them that are wanted, and the array that takes these."""

    name: str
    file: Path
    place: _Place
    columns: tuple[slice, ...]
    out: np.ndarray


def _read_block(block: _Block) -> Literal["not finite", "too large"] | None:
    """Fills `block.out`; returns what is wrong with it: NaN or infinities, or numbers too large for its dtype.

    Mapped a block at a time: mapped pages that were read count as the process's memory.
    """
    place = block.place
    stored = np.memmap(block.file, place.dtype, "r", place.offset, place.shape)[:, *block.columns]
    with np.errstate(over="ignore"):
        block.out[...] = stored
    if _all_finite(block.out):
        return None
    return "too large" if _all_finite(np.ascontiguousarray(stored)) else "not finite"


def _places(file: Path, names: Mapping[str, str]) -> dict[str, _Place]:
    """Returns the places of tensors in a safetensors file found whole: 8 bytes of size, a JSON header, data.

    `names` gives the names in the file by the declared names.
    """
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    places = {}
    for declared, name in names.items():
        entry = header[name]
        dtype, offset = np.dtype(jnp.dtype(_DTYPES[entry["dtype"]])), 8 + size + entry["data_offsets"][0]
        places[declared] = _Place(file.name, name, dtype, offset, tuple(entry["shape"]))
    return places


def _sliced(shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(size))) for size, part in zip(shape, index, strict=True))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array that begins at a multiple of 64 bytes, which JAX on a CPU takes without a copy."""
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _all_finite(block: np.ndarray) -> bool:
    """Returns True if no number has an exponent of ones, as NaN and infinities have.

    As integers such numbers are the largest: the positive ones of the signed, the negative ones of the unsigned. Two
    maxima without a temporary array.
    """
    infinity = np.array(np.inf, block.dtype)
    signed, unsigned = (np.dtype(f"{kind}{block.dtype.itemsize}") for kind in "iu")
    return bool(
        block.view(signed).max() < infinity.view(signed) and block.view(unsigned).max() < (-infinity).view(unsigned)
    )


def random_model(tokenizer_folder: str | os.PathLike[str], shape: str, seed: int, mesh: Mesh | None = None) -> Qwen3:
    """Makes a Qwen3 of a named shape with random float32 weights.

    The tokenizer files come from `tokenizer_folder`; if the shape has fewer vocabulary rows than that has tokens, the
    model has as many as published Qwen3s. Raises ValueError for an unknown shape and FileNotFoundError when the folder
    has neither tokenizer.json nor vocab.json.
    """
    folder = Path(os.path.expanduser(tokenizer_folder))
    config = named_shape(shape)
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json: put a tokenizer there")
    num_tokens = count_tokens(folder, SHAPES["8b"].vocab_size)
    if num_tokens > config.vocab_size:
        config = replace(config, vocab_size=SHAPES["8b"].vocab_size)
    shardings = None
    if mesh is not None:
        check_mesh(config, mesh)
        shardings = jax.tree.map(partial(NamedSharding, mesh), weight_specs(config))
    params = jax.jit(init_params, static_argnums=0, out_shardings=shardings)(config, jax.random.key(seed))
    return Qwen3(config, params, source=str(folder), num_tokens=num_tokens)


def save_reward_model(model: RewardModel, directory: str | os.PathLike[str], dtype: str | None = None) -> None:
    """Writes a Qwen3ForSequenceClassification folder with one label, as `save_hf` a language model's.

    Raises ValueError for a model without a pad_token_id: transformers finds a row's last token by it.
    """
    if model.config.pad_token_id is None:
        raise ValueError(
            "the reward model's config has no pad_token_id, by which transformers finds the last token of a row: give "
            "init_reward_model the tokenizer's"
        )
    save_hf(model, directory, dtype)


def save_hf(
    model: Qwen3 | RewardModel,
    directory: str | os.PathLike[str],
    dtype: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    source: Mapping[str, Any] | None = None,
    say: Callable[[int], Callable[[str], None]] = lambda total: lambda name: None,
) -> None:
    """Writes a Hugging Face folder: safetensors, config.json and the tokenizer files of the model's source folder.

    An existing model folder is replaced; any other non-empty folder raises FileExistsError. With several processes all
    must call; the first one writes.

    Args:
        model: the weights.
        directory: the folder; it may start with `~` or be a symbolic link to a folder.
        dtype: of the files; None keeps each array's own.
        max_file_bytes: tensors that make a file larger begin a new one, and an index names the files.
        source: lets the next equal call resume a killed one (runtime/files.py, `whole_folder`).
        say: called with the number of files; its result is called with each file's name.
    """
    if jax.process_index():  # the others only give their shards
        for _, names in _file_groups(model, dtype, max_file_bytes):
            for _ in fetched(model, list(names), dtype):
                pass
        return
    with whole_folder(directory, marker="config.json", source=source) as partial:
        _write_weights(model, partial, dtype, max_file_bytes, say)
        write_json(partial / "config.json", model.config.to_hf(dtype or model.embed_tokens.get_value().dtype.name))
        copy_tokenizer_files(Path(model.source) if model.source else None, partial)


def local_folder(path: str | os.PathLike[str]) -> Path:
    """Returns the folder itself, or the local snapshot of a hub id (downloaded unless HF_HUB_OFFLINE is set)."""
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
    except Exception as error:  # the hub raises many kinds: offline, no such model, no access
        reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)
        raise FileNotFoundError(f"no folder {name!r}, and the hub gave no model of that name: {reason}") from error


def copy_tokenizer_files(source: Path | None, folder: Path) -> None:
    """Copies the tokenizer files of the folder that a model came from, where there is one.

    A byte order mark, with which transformers could not read a file, is left out. Raises ValueError for a link that
    leads out of the folder: an export is published, and the file behind the link may be a secret.
    """
    for file in tokenizer_files(source) if source else ():
        (folder / file.name).write_bytes(file.read_bytes().removeprefix(BYTE_ORDER_MARK))
        sync(folder / file.name)


def files_dtype(folder: str | os.PathLike[str]) -> str:
    """Returns the dtype of a model folder's files: the embedding's, which the kernels share. Raises as `load_hf`."""
    files = _weight_files(folder := Path(folder))[0]
    for file in files:
        header = _header(folder / file)
        for name in (_EMBEDDING, _EMBEDDING.removeprefix("model.")):
            if name in header:
                return _DTYPES[header[name][1]]
    raise ValueError(f"{folder} has no {_EMBEDDING}")


def map_weights(config: Qwen3Config, read: Callable[[Weight, int | None, P], Any]) -> Params:
    """Returns the tree of `read(weight, layers, spec)` over every declared weight.

    `layers` is None for a weight that is not stacked; `spec` is its place on the mesh in the layout "train".
    """
    table, specs = declare_weights(config), weight_specs(config)
    count, stacked = config.num_hidden_layers, table.pop("layers")
    layers = {name: read(weight, count, specs["layers"][name]) for name, weight in stacked.items()}
    return {**{name: read(weight, None, specs[name]) for name, weight in table.items()}, "layers": layers}


def _expected(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Returns Hugging Face name -> shape of every tensor of this architecture."""
    table = declare_weights(config)
    layers = table.pop("layers")
    shapes = {weight.hf_name: weight.shape for weight in table.values()}
    for i in range(config.num_hidden_layers):
        shapes |= {weight.hf_name.format(i=i): weight.shape for weight in layers.values()}
    return shapes


def _header(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    with safe_open(file, framework="np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}


def _weight_files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Returns the files that hold the weights, and the index's map from tensor to file if the index is used."""
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
    """Returns the place of every declared tensor, after checking every file and every tensor's presence and shape."""
    files, weight_map = _weight_files(folder)
    if weight_map is None and (folder / INDEX).exists():
        log.warning("%s: reading %s, as transformers does, and not the files of %s", folder, WEIGHTS, INDEX)
    problems: list[str] = []
    unreadable: set[str] = set()
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    home: dict[str, str] = {}
    for file in files:
        try:
            if not (there := file_of(folder, file)):
                raise FileNotFoundError
            header = {name: entry for name, entry in _header(there).items() if not _BUFFER.search(name)}
        except FileNotFoundError:
            problems.append(f"file {file} is named in {INDEX} but absent")
            unreadable.add(file)
        except (SafetensorError, OSError) as error:
            problems.append(f"file {file} is cut or damaged ({error})")
            unreadable.add(file)
        except ValueError as error:  # no file of this folder
            problems.append(str(error))
            unreadable.add(file)
        else:
            problems += [f"{name} is in both {home[name]} and {file}" for name in sorted(set(header) & set(home))]
            found |= header
            home |= dict.fromkeys(header, file)
    expected = _expected(config)
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
            f"{name} is in {home[name]}, but {INDEX} looks for it in {file}"
            for name, file in sorted(weight_map.items())
            if home.get(name, file) != file
        ]
    missing = sorted(set(expected) - set(stored) - lost)
    problems += [f"missing tensor {name} {list(expected[name])}" for name in missing]
    for declared, name in sorted(stored.items()):
        shape, kind = found[name]
        if kind not in _DTYPES:
            problems.append(f"{name} has dtype {kind}; supported: {', '.join(_DTYPES)}")
        elif declared == _HEAD and config.tie_word_embeddings:
            tied = stored.get(_EMBEDDING)
            if tied and found[tied][1] in _DTYPES and not _same_numbers(folder, home, name, tied):
                problems.append("lm_head.weight differs from the embedding although tie_word_embeddings is true")
        elif declared not in expected:
            problems.append(f"unexpected tensor {name} {list(shape)}")
        elif shape != expected[declared]:
            problems.append(f"{name} has shape {list(shape)}, config.json asks for {list(expected[declared])}")
    if problems:
        raise ValueError(f"{folder} cannot be loaded: {listed(problems)}")
    places: dict[str, _Place] = {}
    for file in files:
        places |= _places(folder / file, {name: stored[name] for name in expected if home[stored[name]] == file})
    return places


def _declared_name(name: str, expected: Collection[str]) -> str:
    """Returns a tensor's name with the prefix `model.`, which is missing where the body alone was saved."""
    return f"model.{name}" if name not in expected and f"model.{name}" in expected else name


def _same_numbers(folder: Path, home: Mapping[str, str], *names: str) -> bool:
    """Compares two tensors; in different dtypes they are equal if one is the other's cast. NaN equals NaN."""

    def read(name: str) -> np.ndarray:
        with safe_open(folder / home[name], framework="np") as opened:
            return opened.get_tensor(name)

    one, other = map(read, names)
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and np.array_equal(_bytes(one), _bytes(other)):
        return True
    with np.errstate(over="ignore"):
        casts = (one, other.astype(one.dtype)), (one.astype(other.dtype), other)
    return any(np.array_equal(left, right, equal_nan=True) for left, right in casts)


def _bytes(tensor: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)


def tensors(model: Qwen3 | RewardModel) -> dict[str, tuple[jax.Array, int | None]]:
    """Returns every tensor's Hugging Face name with the array that holds it and, where that is stacked, its layer."""
    params, table = model.params, declare_weights(model.config)
    layers = table.pop("layers")
    stacked = {
        weight.hf_name.format(i=i): (params["layers"][name], i)
        for name, weight in layers.items()
        for i in range(model.config.num_hidden_layers)
    }
    return stacked | {weight.hf_name: (params[name], None) for name, weight in table.items()}


def refuse_nonfinite(model: Qwen3 | RewardModel, dtype: str | None = None) -> None:
    """Raises ValueError naming every tensor that holds NaN, infinities, or numbers too large for `dtype`.

    `dtype` None is each tensor's own.
    """
    spoiled = [name for name, x in fetched(model, sorted(tensors(model)), dtype) if not _all_finite(x)]
    too_large = [name for name, x in fetched(model, spoiled) if _all_finite(x)]
    if too_large:
        raise ValueError(_too_large(dtype or "", too_large))
    if spoiled:
        raise ValueError(f"NaN or infinities in {listed(spoiled, ', ')} (--allow_nonfinite converts them all the same)")


def fetched(
    model: Qwen3 | RewardModel, names: Sequence[str], dtype: str | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the named tensors on this host, in `dtype` (None: each in its own)."""
    home = tensors(model)
    for name in names:
        array, layer = home[name]
        value = fetch(array if layer is None else array[layer])
        with np.errstate(over="ignore"):  # `refuse_nonfinite` names what is too large
            value = value if dtype is None else value.astype(jnp.dtype(dtype), copy=False)
        yield name, value


def _file_groups(
    model: Qwen3 | RewardModel, dtype: str | None, max_file_bytes: int
) -> list[tuple[str, dict[str, int]]]:
    """Returns (file name, its tensors with their bytes) of an export, in the order of their names."""
    home, groups = tensors(model), list[dict[str, int]]([{}])
    for name, shape in sorted(_expected(model.config).items()):
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
        if (folder / file).exists():  # from a call that was killed: a file gets its name when it is on the disk
            continue
        unfinished = folder / f"{file}.unfinished"
        try:
            save_file(dict(fetched(model, list(names), dtype)), unfinished, metadata={"format": "pt"})
        except SafetensorError as error:  # its own kind, for a full disk too
            raise OSError(errno.EIO, str(error), str(unfinished)) from error
        sync(unfinished)
        unfinished.rename(folder / file)
    if len(groups) > 1:
        total = sum(sum(names.values()) for _, names in groups)
        weight_map = {name: file for file, names in groups for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
