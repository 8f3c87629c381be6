"""Model folders with Orbax weights: for jobs that read their weights in shards, from disks or object stores.

    params/         the training tree as one Orbax checkpoint: layers stacked [l, ...], kernels [out, in]
    config.json     as in a Hugging Face folder, and the tokenizer's files beside it
    manifest.json   every file with its SHA-256, written last: a folder without it is not read

The sums are there because Orbax has none for the weights: a flipped byte in its data files loads as another number.
One process holds the whole tree while it reads or writes.
"""

import hashlib
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from socialr1_jax.files import read_json, whole_folder, write_json
from socialr1_jax.hf import copy_tokenizer_files, count_tokens, map_weights
from socialr1_jax.models.qwen3 import Qwen3, Qwen3Config

PARAMS, MANIFEST = "params", "manifest.json"
_VERSION = 1


def save_orbax(model: Qwen3, directory: str | os.PathLike[str]) -> None:
    """Writes the model's weights in their own dtype, its configuration and its tokenizer files; all or nothing.

    An existing Orbax folder is replaced; any other non-empty folder raises FileExistsError.
    """
    with whole_folder(directory, marker=MANIFEST) as partial:
        with ocp.StandardCheckpointer() as checkpointer:  # waits for the writing when it closes
            checkpointer.save(partial / PARAMS, model.params)
        write_json(partial / "config.json", model.config.to_hf(model.dtype.name))
        copy_tokenizer_files(model, partial)
        files = sorted(file for file in partial.rglob("*") if file.is_file())
        sums = {file.relative_to(partial).as_posix(): _sha256(file) for file in files}
        write_json(partial / MANIFEST, {"version": _VERSION, "dtype": model.dtype.name, "files": sums})


def load_orbax(directory: str | os.PathLike[str]) -> Qwen3:
    """Reads a folder of `save_orbax` onto the first device, in the dtype that was saved.

    Raises FileNotFoundError when the folder has no manifest, and ValueError naming every file that is absent, cut or
    altered.
    """
    folder = Path(directory).absolute()
    if not (folder / MANIFEST).exists():
        raise FileNotFoundError(f"{directory} has no {MANIFEST}: not a folder of hf_to_orbax.py, or not a whole one")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("version") != _VERSION:
        raise ValueError(f"{directory}: {MANIFEST} has version {manifest.get('version')!r}, this reads {_VERSION}")
    faults = ((name, _fault(folder / name, digest)) for name, digest in manifest["files"].items())
    problems = [f"{name} is {fault}" for name, fault in faults if fault]
    if problems:
        raise ValueError(f"{directory} is damaged, convert it again: " + "; ".join(problems))
    config = Qwen3Config.from_hf(read_json(folder / "config.json"), source=str(folder / "config.json"))
    dtype, device = jnp.dtype(manifest["dtype"]), jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = map_weights(
        config,
        lambda weight, layers, spec: jax.ShapeDtypeStruct(
            weight.shape if layers is None else (layers, *weight.shape), dtype, sharding=device
        ),
    )
    with ocp.StandardCheckpointer() as checkpointer:
        params = checkpointer.restore(folder / PARAMS, abstract)
    return Qwen3(config, params, source=str(folder), num_tokens=count_tokens(folder, config.vocab_size))


def _fault(file: Path, digest: str) -> str:
    if not file.exists():
        return "absent"
    return "" if _sha256(file) == digest else "cut or altered"


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
