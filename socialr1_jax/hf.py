"""Qwen3 folders of Hugging Face, in and out: safetensors weights, config.json, tokenizer files.

Loading reads every header first and reports all that is wrong at once, before any weight is read. Saving writes a
temporary folder beside the target and renames it, so a folder is there whole or not at all.
"""

import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from socialr1_jax.files import read_json, sync, whole_folder, write_json
from socialr1_jax.mesh import P, fetch
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
from socialr1_jax.models.shapes import SHAPES

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
_BLOCK = 8 << 20  # bytes of a file that are mapped, copied and checked together
_READERS = min(8, os.cpu_count() or 1)  # threads
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def load_hf(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = "float32",
    *,
    allow_nonfinite: bool = False,
) -> Qwen3:
    """Reads a Qwen3 from a Hugging Face folder or hub id.

    `dtype` is that of the arrays ("float32", "bfloat16"; None keeps the file's own). With a mesh, every weight has the
    layout "train" (models/qwen3.py), and each process reads only the slices that its devices hold. Raises
    FileNotFoundError when there is no such folder, and ValueError listing every missing, unexpected, mis-shaped,
    doubled or unreadable tensor, every one that holds NaN or infinities (unless `allow_nonfinite`), or the sizes that
    the mesh does not divide.
    """
    source = open_hf(path, mesh, dtype)
    params = map_weights(source.config, source.read)
    if not allow_nonfinite:
        source.refuse_nonfinite()
    num_tokens = count_tokens(source.folder, source.config.vocab_size)
    return Qwen3(source.config, params, source=str(source.folder), num_tokens=num_tokens)


def load_reward_model(
    path: str | os.PathLike[str], mesh: Mesh | None = None, dtype: str | None = "float32"
) -> RewardModel:
    """Reads a reward model, a folder or hub id of a Qwen3ForSequenceClassification with one label; as `load_hf`."""
    source = open_hf(path, mesh, dtype, scalar_head=True)
    params = map_weights(source.config, source.read)
    source.refuse_nonfinite()
    return RewardModel(source.config, params, source=str(source.folder))


def init_reward_model(model: Qwen3, key: jax.Array, pad_token_id: int | None = None) -> RewardModel:
    """The language model's body (its own arrays) under a fresh scalar head: normal, deviation 1 / sqrt(d + 1) (Stiennon
    et al., arXiv 2009.01325, appendix B).

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
    path: str | os.PathLike[str], mesh: Mesh | None = None, dtype: str | None = None, *, scalar_head: bool = False
) -> "HfFolder":
    """The folder, its headers checked and no weight read yet; arguments and errors as of `load_hf`.

    `scalar_head`: a reward model is wanted. The other kind raises ValueError.
    """
    if dtype not in (None, *_DTYPES.values()):
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES.values())} or None")
    folder = local_folder(path)
    raw = read_json(folder / "config.json")
    config = Qwen3Config.from_hf(raw, source=str(folder / "config.json"))
    if config.scalar_head != scalar_head:
        found, reader = (
            ("a reward model", "load_reward_model") if config.scalar_head else ("a language model", "load_hf")
        )
        mend = "" if config.scalar_head else ", and scripts/train_reward_model.py makes a reward model of it"
        raise ValueError(
            f"{folder / 'config.json'}: architectures {raw.get('architectures')} is {found}: {reader} reads it{mend}"
        )
    if mesh is not None:
        check_mesh(config, mesh)
    home = _check_files(folder, config)
    places = {name: place for file in set(home.values()) for name, place in _places(folder / file).items()}
    kinds = {places[name].dtype.name for name in home}
    if dtype is None and len(kinds) > 1:
        raise ValueError(f"{folder}: weights of several dtypes ({', '.join(sorted(kinds))}); name one with dtype=")
    return HfFolder(folder, config, home, np.dtype(jnp.dtype(dtype or kinds.pop())), mesh, places)


@dataclass(frozen=True)
class HfFolder:
    """A checked Hugging Face folder that hands out one declared weight at a time."""

    folder: Path
    config: Qwen3Config
    home: Mapping[str, str]  # tensor name -> file name
    dtype: np.dtype  # of the arrays that `read` gives
    mesh: Mesh | None
    places: Mapping[str, "_Place"]
    nonfinite: set[str] = field(default_factory=set)  # tensors with NaN or infinities in what was read so far

    def read(self, weight: Weight, layers: int | None, spec: P) -> jax.Array:
        """The weight on the devices, the layers stacked; each device's part is read from the files on its own."""
        names = [weight.hf_name] if layers is None else [weight.hf_name.format(i=i) for i in range(layers)]

        def part(index: Any) -> np.ndarray:
            """What one device holds, filled tensor by tensor: one copy, from the file's pages to the array."""
            chosen, inner = (names, index) if layers is None else (names[index[0]], index[1:])
            stack = _aligned_empty((len(chosen), *_sliced(weight.shape, inner)), self.dtype)
            blocks = [b for name, row in zip(chosen, stack, strict=True) for b in self._blocks(name, inner, row)]
            with ThreadPoolExecutor(_READERS) as pool:
                self.nonfinite.update(name for name in pool.map(_read_block, blocks) if name)
            return stack[0] if layers is None else stack

        shape = weight.shape if layers is None else (layers, *weight.shape)
        device = jax.devices()[0]
        sharding = SingleDeviceSharding(device) if self.mesh is None else NamedSharding(self.mesh, spec)
        return jax.make_array_from_callback(shape, sharding, part)

    def _blocks(self, name: str, index: tuple[slice, ...], row: np.ndarray) -> Iterator["_Block"]:
        """The part `index` of a tensor as pieces of at most _BLOCK bytes of the file, each with where it goes."""
        place, file = self.places[name], self.folder / self.home[name]
        line = math.prod(place.shape[1:]) * place.dtype.itemsize
        first, last, _ = index[0].indices(place.shape[0])
        step = max(1, _BLOCK // line)
        for start in range(first, last, step):
            stop = min(start + step, last)
            piece = place._replace(offset=place.offset + start * line, shape=(stop - start, *place.shape[1:]))
            yield _Block(name, file, piece, index[1:], row[start - first : stop - first])

    def refuse_nonfinite(self) -> None:
        """Raises ValueError naming every tensor that was read and holds NaN or infinities."""
        if self.nonfinite:
            raise ValueError(
                f"{self.folder}: NaN or infinities in {', '.join(sorted(self.nonfinite))}; allow_nonfinite=True loads "
                "them all the same (on the command line --allow_nonfinite)"
            )


class _Place(NamedTuple):
    """Where a tensor lies in its file."""

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


def _read_block(block: _Block) -> str:
    """Fills `block.out`; the tensor's name when it then holds NaN or infinities, else "".

    Mapped a block at a time: mapped pages that were read count as the process's memory.
    """
    place = block.place
    block.out[...] = np.memmap(block.file, place.dtype, "r", place.offset, place.shape)[:, *block.columns]
    return "" if _all_finite(block.out) else block.name


def _places(file: Path) -> dict[str, _Place]:
    """Every tensor's place in a safetensors file found whole: 8 bytes of size, a JSON header, data."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return {
        name: _Place(
            np.dtype(jnp.dtype(_DTYPES[entry["dtype"]])), 8 + size + entry["data_offsets"][0], tuple(entry["shape"])
        )
        for name, entry in header.items()
    }


def _sliced(shape: tuple[int, ...], index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(len(range(*part.indices(size))) for size, part in zip(shape, index, strict=True))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array that begins at a multiple of 64 bytes: on a CPU JAX then takes it as it is instead of copying it."""
    nbytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + nbytes].view(dtype).reshape(shape)


def _all_finite(block: np.ndarray) -> bool:
    """Whether no number has an exponent of ones, which is what NaN and infinities have.

    As integers such numbers are the largest: the positive ones of the signed, the negative ones of the unsigned. Two
    maxima without a temporary array.
    """
    infinity = np.array(np.inf, block.dtype)
    signed, unsigned = (np.dtype(f"{kind}{block.dtype.itemsize}") for kind in "iu")
    return bool(
        block.view(signed).max() < infinity.view(signed) and block.view(unsigned).max() < (-infinity).view(unsigned)
    )


def random_model(tokenizer_folder: str | os.PathLike[str], shape: str, seed: int, mesh: Mesh | None = None) -> Qwen3:
    """A Qwen3 of a named shape with random float32 weights.

    The tokenizer files come from `tokenizer_folder`; if the shape has fewer vocabulary rows than that has tokens, the
    model has as many as published Qwen3s. Raises ValueError for an unknown shape and FileNotFoundError
    when the folder has no tokenizer.json.
    """
    folder = Path(tokenizer_folder)
    if shape not in SHAPES:
        raise ValueError(f"model.random {shape!r} is not one of {', '.join(SHAPES)}")
    if not (folder / "tokenizer.json").exists():
        raise FileNotFoundError(f"{folder} has no tokenizer.json")
    config = SHAPES[shape]
    num_tokens = count_tokens(folder, SHAPES["8b"].vocab_size)
    if num_tokens > config.vocab_size:
        config = replace(config, vocab_size=SHAPES["8b"].vocab_size)
    shardings = None
    if mesh is not None:
        check_mesh(config, mesh)
        shardings = jax.tree.map(partial(NamedSharding, mesh), weight_specs(config))
    params = jax.jit(init_params, static_argnums=0, out_shardings=shardings)(config, jax.random.key(seed))
    return Qwen3(config, params, source=str(folder), num_tokens=num_tokens)


def save_reward_model(model: RewardModel, directory: str | os.PathLike[str]) -> None:
    """Writes a Qwen3ForSequenceClassification folder with one label, as `save_hf` a language model's.

    Raises ValueError for a model without a pad_token_id: transformers finds a row's last token by it.
    """
    if model.config.pad_token_id is None:
        raise ValueError(
            "the reward model's config has no pad_token_id, by which transformers finds the last token of a row: give "
            "init_reward_model the tokenizer's"
        )
    save_hf(model, directory)


def save_hf(
    model: Qwen3 | RewardModel,
    directory: str | os.PathLike[str],
    dtype: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    source: Mapping[str, Any] | None = None,
    say: Callable[[int], Callable[[str], None]] = lambda total: lambda name: None,
) -> None:
    """Writes a Hugging Face folder: safetensors (several files with an index above `max_file_bytes`), config.json and
    the tokenizer files of the folder that the model came from. `dtype=None` keeps the arrays' own.

    An existing model folder is replaced; any other non-empty folder raises FileExistsError. With `source` a call that
    was killed is gone on with by the next (files.py, `whole_folder`). `say(number of files)` gives what hears each
    file's name. With several processes all must call; the first one writes.
    """
    kind = np.dtype(jnp.dtype(dtype or model.dtype))
    if jax.process_index():  # the others only give their shards
        for _, names in _file_groups(model.config, kind, max_file_bytes):
            for _ in fetched(model, names, kind):
                pass
        return
    with whole_folder(directory, marker="config.json", source=source) as partial:
        _write_weights(model, partial, kind, max_file_bytes, say)
        write_json(partial / "config.json", model.config.to_hf(kind.name))
        copy_tokenizer_files(Path(model.source) if model.source else None, partial)


def local_folder(path: str | os.PathLike[str]) -> Path:
    """The folder itself, or the local snapshot of a hub id (downloaded unless HF_HUB_OFFLINE is set)."""
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{folder} has no config.json: not a Hugging Face model folder")
        return folder
    name = os.fspath(path)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(f"no folder {name!r}, and it is not a hub id of the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", INDEX, "config.json", *TOKENIZER_FILES]))
    except Exception as error:  # the hub raises many kinds: offline, no such model, no access
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(f"no folder {name!r}, and the hub gave no model of that name: {reason}") from error


def copy_tokenizer_files(source: Path | None, folder: Path) -> None:
    """Copies what TOKENIZER_FILES names from the folder that a model came from, where there is one."""
    for name in TOKENIZER_FILES if source else ():
        if source and (source / name).exists():
            shutil.copyfile(source / name, folder / name)
            sync(folder / name)


def count_tokens(folder: Path, vocab_size: int) -> int:
    """One more than the largest id in the folder's tokenizer.json; the whole vocabulary when there is none."""
    if not (folder / "tokenizer.json").exists():
        return vocab_size
    tokenizer = read_json(folder / "tokenizer.json")
    try:
        ids = list(tokenizer["model"]["vocab"].values()) + [token["id"] for token in tokenizer.get("added_tokens", ())]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / 'tokenizer.json'} is not a tokenizer of the tokenizers library") from error
    if max(ids) >= vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has id {max(ids)}, but config.json has vocab_size {vocab_size}")
    return max(ids) + 1


def map_weights(config: Qwen3Config, read: Callable[[Weight, int | None, P], Any]) -> Params:
    """The tree of `read(weight, layers, spec)` over every declared weight.

    `layers` is None for a weight that is not stacked; `spec` is its place on the mesh in the layout "train".
    """
    table, specs = declare_weights(config), weight_specs(config)
    count, stacked = config.num_hidden_layers, table.pop("layers")
    layers = {name: read(weight, count, specs["layers"][name]) for name, weight in stacked.items()}
    return {**{name: read(weight, None, specs[name]) for name, weight in table.items()}, "layers": layers}


def _expected(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape of every tensor of this architecture."""
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


def _read(folder: Path, home: dict[str, str], name: str) -> np.ndarray:
    with safe_open(folder / home[name], framework="np") as opened:
        return opened.get_tensor(name)


def _check_files(folder: Path, config: Qwen3Config) -> dict[str, str]:
    """Tensor name -> file name, after checking every file and every tensor's presence, shape and dtype."""
    if (folder / INDEX).exists():
        listed = read_json(folder / INDEX).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
            raise ValueError(f"{folder / INDEX} has no weight_map from tensor names to file names")
        files = sorted(set(listed.values()))
    elif (folder / WEIGHTS).exists():
        listed, files = None, [WEIGHTS]
    else:
        raise FileNotFoundError(f"{folder} has neither {WEIGHTS} nor {INDEX}")
    problems: list[str] = []
    unreadable: set[str] = set()
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    home: dict[str, str] = {}
    for file in files:
        try:
            header = _header(folder / file)
        except FileNotFoundError:
            problems.append(f"file {file} is named in {INDEX} but absent")
            unreadable.add(file)
        except (SafetensorError, OSError) as error:
            problems.append(f"file {file} is cut or damaged ({error})")
            unreadable.add(file)
        else:
            problems += [f"{name} is in both {home[name]} and {file}" for name in sorted(set(header) & set(home))]
            found |= header
            home |= dict.fromkeys(header, file)
    expected = _expected(config)
    # The tensors of a file that is absent or cut would all be "missing": the file says it once.
    lost = set(expected) if listed is None and unreadable else set()
    if listed is not None:
        lost = {name for name, file in listed.items() if file in unreadable}
        problems += [f"{name} is listed in {INDEX} but in no file" for name in sorted(set(listed) - set(found) - lost)]
        problems += [
            f"{name} is in {home[name]}, but {INDEX} looks for it in {file}"
            for name, file in sorted(listed.items())
            if home.get(name, file) != file
        ]
    missing = sorted(set(expected) - set(found) - lost)
    problems += [f"missing tensor {name} {list(expected[name])}" for name in missing]
    for name, (shape, kind) in sorted(found.items()):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            tied = "model.embed_tokens.weight"
            if tied in found and not np.array_equal(_read(folder, home, name), _read(folder, home, tied)):
                problems.append("lm_head.weight differs from the embedding although tie_word_embeddings is true")
        elif name not in expected:
            problems.append(f"unexpected tensor {name} {list(shape)}")
        elif shape != expected[name]:
            problems.append(f"{name} has shape {list(shape)}, config.json asks for {list(expected[name])}")
        if kind not in _DTYPES:
            problems.append(f"{name} has dtype {kind}; supported: {', '.join(_DTYPES)}")
    if problems:
        raise ValueError(f"{folder} cannot be loaded:\n  " + "\n  ".join(problems))
    return {name: home[name] for name in expected}


def tensors(model: Qwen3 | RewardModel) -> dict[str, tuple[jax.Array, int | None]]:
    """Every tensor's Hugging Face name with the array that holds it and, where that is stacked, its layer."""
    params, table = model.params, declare_weights(model.config)
    layers = table.pop("layers")
    stacked = {
        weight.hf_name.format(i=i): (params["layers"][name], i)
        for name, weight in layers.items()
        for i in range(model.config.num_hidden_layers)
    }
    return stacked | {weight.hf_name: (params[name], None) for name, weight in table.items()}


def refuse_nonfinite(model: Qwen3 | RewardModel, dtype: str) -> None:
    """Raises ValueError naming every tensor that holds NaN or infinities in `dtype`."""
    with np.errstate(over="ignore"):  # a number too large for `dtype` is named below
        spoiled = [name for name, x in fetched(model, sorted(tensors(model)), np.dtype(dtype)) if not _all_finite(x)]
    if spoiled:
        raise ValueError(f"NaN or infinities in {', '.join(spoiled)} (--allow_nonfinite converts them all the same)")


def fetched(model: Qwen3 | RewardModel, names: Sequence[str], kind: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    """The named tensors on this host."""
    home = tensors(model)
    for name in names:
        array, layer = home[name]
        yield name, fetch(array if layer is None else array[layer]).astype(kind, copy=False)


def _file_groups(config: Qwen3Config, kind: np.dtype, max_file_bytes: int) -> list[tuple[str, list[str]]]:
    """(file name, its tensors) of an export, in the order of their names."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, shape in sorted(_expected(config).items()):
        nbytes = int(np.prod(shape)) * kind.itemsize
        if size + nbytes > max_file_bytes and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += nbytes
    if len(groups) == 1:
        return [(WEIGHTS, groups[0])]
    return [(f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors", names) for i, names in enumerate(groups)]


def _write_weights(
    model: Qwen3 | RewardModel,
    folder: Path,
    kind: np.dtype,
    max_file_bytes: int,
    say: Callable[[int], Callable[[str], None]],
) -> None:
    groups = _file_groups(model.config, kind, max_file_bytes)
    begin = say(len(groups))
    for file, names in groups:  # one file's tensors on the host at a time
        begin(file)
        if (folder / file).exists():  # from a call that was killed: a file gets its name when it is on the disk
            continue
        unfinished = folder / f"{file}.unfinished"
        try:
            save_file(dict(fetched(model, names, kind)), unfinished, metadata={"format": "pt"})
        except SafetensorError as error:  # its own kind, for a full disk too
            raise OSError(errno.EIO, str(error), str(unfinished)) from error
        sync(unfinished)
        unfinished.rename(folder / file)
    if len(groups) > 1:
        total = sum(int(np.prod(shape)) * kind.itemsize for shape in _expected(model.config).values())
        weight_map = {name: file for file, names in groups for name in names}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
