"""Write and read model folders with Orbax weights, for jobs that read shards from disks or object stores.

    params/NAME/    one Orbax checkpoint per declared weight, NAME as in Hugging Face without the layer's number: layers
                    stacked [l, ...], kernels [out, in]
    config.json     as in a Hugging Face folder, next to the tokenizer's files
    manifest.json   every file with its SHA-256 and every weight's dtype; written last, and required for reading

With one checkpoint per weight, a conversion needs memory for one stacked weight, not for the model, and an interrupted
one resumes after the last finished weight. The checksums are needed since Orbax has none for the weights: a flipped
byte in its data files loads as another number.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from socialr1_jax.models.qwen3 import Qwen3, Weight
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.files import read_json, sha256, whole_folder, write_json
from socialr1_jax.runtime.mesh import P
from socialr1_jax.runtime.model_files import file_of, first_few
from socialr1_jax.runtime.terminal import printable, shown
from socialr1_jax.weights.declared import abstract_weight, map_weights
from socialr1_jax.weights.hf_export import copy_tokenizer_files
from socialr1_jax.weights.tokenizer_files import count_tokens, tokenizer_files

PARAMS, MANIFEST = "params", "manifest.json"
_VERSION, _VERSION_OF_SEVERAL_DTYPES = 2, 3  # of the manifest
# Bytes per chunk: if a weight were a single chunk, every process of a mesh would decode all of it.
_CHUNK = 64 << 20
_DTYPES = ("float32", "bfloat16", "float16")
Read = Callable[[Weight, int | None, P], jax.Array]  # as for `map_weights`


def write_orbax(
    directory: str | os.PathLike[str],
    config: Qwen3Config,
    dtypes: Mapping[str, str],
    read: Read,
    tokenizer: Path | None,
    *,
    source: Mapping[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda name: None,
) -> None:
    """Write a folder atomically, reading one weight at a time.

    An existing Orbax folder is replaced; any other non-empty folder raises FileExistsError.

    Args:
        dtypes: dtypes of the results of `read`, by Hugging Face name.
        read: returns the array of a declared weight.
        tokenizer: the folder to copy the tokenizer files from.
        source: description of the input; an equal call resumes an interrupted one (`whole_folder` in runtime/files.py).
        check: called after a weight is read and before it is written; may raise.
        say: called with each weight's name.
    """
    with whole_folder(directory, marker=MANIFEST, source=source) as partial:
        with ocp.StandardCheckpointer() as checkpointer:

            def write(weight: Weight, layers: int | None, spec: P) -> None:
                target = partial / PARAMS / _item(weight)
                say(target.name)
                if not target.exists():  # Orbax writes a checkpoint atomically
                    chunks = {"weight": ocp.SaveArgs(chunk_byte_size=_CHUNK)}
                    item = {"weight": read(weight, layers, spec)}
                    check()
                    checkpointer.save(target, item, save_args=chunks)
                    checkpointer.wait_until_finished()

            map_weights(config, write)
        main = dtypes["model.embed_tokens.weight"]
        write_json(partial / "config.json", config.to_hf(main))
        copy_tokenizer_files(tokenizer, partial)
        files = sorted(file for file in partial.rglob("*") if file.is_file() and file.parent != partial)
        files += [file for file in partial.iterdir() if file.is_file() and not file.name.startswith(".")]
        sums = {file.relative_to(partial).as_posix(): sha256(file) for file in files}
        others = {name: dtype for name, dtype in dtypes.items() if dtype != main}
        version = _VERSION_OF_SEVERAL_DTYPES if others else _VERSION
        write_json(partial / MANIFEST, {"version": version, "dtype": main, "dtypes": others, "files": sums})


def load_orbax(directory: str | os.PathLike[str], *, tokenizer: bool = True) -> Qwen3:
    """Read a folder of `write_orbax` onto the first device, in the stored dtypes.

    Without `tokenizer`, tokens are not counted: the model can be converted, but not sampled from.

    Raises FileNotFoundError if the folder has no manifest, and ValueError naming the files that are absent, truncated,
    altered or outside the folder.
    """
    folder = Path(os.path.expanduser(directory)).absolute()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {directory}: give a folder of hf_to_orbax.py")
    if not file_of(folder, MANIFEST):
        raise FileNotFoundError(f"{directory} has no {MANIFEST}: not a folder of hf_to_orbax.py, or not a whole one")
    manifest = read_json(folder / MANIFEST)
    if manifest.get("version") not in (_VERSION, _VERSION_OF_SEVERAL_DTYPES):
        raise ValueError(
            f"{directory}: {MANIFEST} has version {shown(manifest.get('version'))}, this reads {_VERSION} and "
            f"{_VERSION_OF_SEVERAL_DTYPES}: convert the folder again"
        )
    files, dtypes = manifest.get("files"), manifest.get("dtypes") or {}
    if not isinstance(files, dict) or not isinstance(dtypes, dict) or "config.json" not in files:
        raise ValueError(f"{folder / MANIFEST} lacks files or dtypes: convert the folder again")
    for dtype in (manifest.get("dtype"), *dtypes.values()):
        if dtype not in _DTYPES:
            raise ValueError(f"{folder / MANIFEST} has dtype {shown(dtype)}, not one of {', '.join(_DTYPES)}")
    if problems := [fault for name, digest in files.items() if (fault := _fault(folder, name, digest))]:
        raise ValueError(f"{directory} is damaged, convert it again: {first_few(problems)}")
    tokenizer_files(folder)  # refuse files that an export must not copy before reading weights
    config = Qwen3Config.from_hf(read_json(folder / "config.json"), source=str(folder / "config.json"))
    items = jax.tree.leaves(map_weights(config, lambda weight, layers, spec: _item(weight)))
    if unlisted := sorted(set(items) - {name.split("/")[1] for name in files if name.startswith(f"{PARAMS}/")}):
        raise ValueError(f"{folder / MANIFEST} lists no file of {first_few(unlisted, ', ')}: convert the folder again")
    num_tokens = count_tokens(folder, config.vocab_size) if tokenizer else config.vocab_size
    with ocp.StandardCheckpointer() as checkpointer:

        def read(weight: Weight, layers: int | None, spec: P) -> jax.Array:
            dtype = np.dtype(jnp.dtype(dtypes.get(weight.hf_name, manifest["dtype"])))
            abstract = abstract_weight(weight, layers, spec, None, dtype)
            place = folder / PARAMS / _item(weight)
            try:
                return checkpointer.restore(place, {"weight": abstract})["weight"]
            except (ValueError, TypeError, LookupError) as error:  # such as a shape other than config.json's
                raise ValueError(f"{place} cannot be read: {printable(str(error), 300)}") from error

        params = map_weights(config, read)
    return Qwen3(config, params, source=str(folder), num_tokens=num_tokens)


def _item(weight: Weight) -> str:
    return weight.hf_name.replace(".{i}", "")


def _fault(folder: Path, name: str, digest: Any) -> str:
    """Return the fault of a file in the manifest, or ""."""
    try:
        file = file_of(folder, name)
    except ValueError as error:
        return str(error)
    if file is None:
        return f"{name} is absent"
    return "" if sha256(file) == digest else f"{name} is cut or altered"
