"""Load the tokenizer of a model folder, with one-line errors for faulty files. Imports no JAX."""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from socialr1_jax.runtime.files import BYTE_ORDER_MARK, read_json
from socialr1_jax.runtime.model_files import file_of
from socialr1_jax.runtime.ownership import TOKENIZER_FILES
from socialr1_jax.runtime.terminal import printable, shown

_TAKE_ANOTHER = "put the tokenizer files of the model that its weights come from there"
_MOST = 256 << 20  # bytes per file; Qwen3's largest has 11 MB
_SENTENCE = "Where will Ann look for the key?"


def has_tokenizer(folder: Path) -> bool:
    """Return whether the folder has a vocabulary file."""
    return any(file_of(folder, name) for name in ("tokenizer.json", "vocab.json"))


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the tokenizer files in a folder. Raises ValueError as `file_of` does, and if one is too large."""
    files = [file for name in TOKENIZER_FILES if (file := file_of(folder, name))]
    for file in files:
        if (size := file.stat().st_size) > _MOST:
            raise ValueError(f"{file} has {size:,} bytes, more than the {_MOST:,} that such a file may have")
    return files


def load_tokenizer(folder: str | os.PathLike[str] | None) -> Any:
    """Load the tokenizer of a local folder with transformers; files may begin with a byte order mark.

    Raises ValueError in one line with the folder or file and the fix. A tokenizer that loses text is refused, since
    prompts and responses would be empty.
    """
    if not folder:
        raise ValueError(f"the model has no folder with a tokenizer: save it as a folder and {_TAKE_ANOTHER}")
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder; name the folder of a model, or a hub id as owner/name")
    tokenizer, returned = _read(folder, lambda read: read.decode(read.encode(_SENTENCE, add_special_tokens=False)))
    if "".join(returned.split()).lower() != "".join(_SENTENCE.split()).lower():
        file = file_of(folder, "tokenizer.json") or folder / "vocab.json"
        raise ValueError(
            f"{file}: this tokenizer loses text, {_SENTENCE!r} comes back as {shown(returned)}: {_TAKE_ANOTHER}"
        )
    tokenizer.name_or_path = str(folder)
    return tokenizer


def _read(folder: Path, use: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Return the folder's tokenizer and `use(tokenizer)`; some faults only appear in use."""
    there = [file.name for file in (file_of(folder, "config.json"), *tokenizer_files(folder)) if file]
    if not has_tokenizer(folder):  # transformers would create an empty tokenizer
        raise ValueError(f"{folder} has neither tokenizer.json nor vocab.json: {_TAKE_ANOTHER}")
    if "tokenizer.json" not in there and "merges.txt" not in there:
        raise ValueError(f"{folder} has vocab.json without merges.txt: put merges.txt beside it")
    from transformers import AutoTokenizer  # seconds to import

    for handler in logging.getLogger("transformers").handlers:
        handler.addFilter(_make_printable)  # its warnings quote the files
    with _without_marks(folder, there) as readable:
        try:
            tokenizer = AutoTokenizer.from_pretrained(readable, local_files_only=True, trust_remote_code=False)
            return tokenizer, use(tokenizer)
        except BaseException as error:  # the tokenizers library raises plain Exceptions and, in Rust, panics
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            for name in there:
                if name.endswith(".json"):
                    read_json(folder / name)  # raises for the file that is not a JSON object
            reason = " ".join(str(error).replace(str(readable), str(folder)).split())
            reason = printable(reason, 300) or type(error).__name__
            raise ValueError(
                f"{folder}: the tokenizer cannot be read ({reason}) from {', '.join(there)}: {_TAKE_ANOTHER}"
            ) from error


def count_tokens(folder: Path, vocab_size: int) -> int:
    """Return the largest id of the folder's tokenizer plus one; `vocab_size` if there is no tokenizer.

    Raises ValueError if the tokenizer cannot be read or has an id outside the model's vocabulary.
    """
    if not has_tokenizer(folder):
        return vocab_size
    _, vocabulary = _read(folder, lambda tokenizer: tokenizer.get_vocab())
    if not vocabulary:
        raise ValueError(f"{folder}: its tokenizer has no tokens: {_TAKE_ANOTHER}")
    token, last = max(vocabulary.items(), key=lambda entry: entry[1])
    if last >= vocab_size:
        raise ValueError(
            f"{folder}: its tokenizer has id {last} ({shown(token)}), but the model has vocab_size {vocab_size}: "
            f"{_TAKE_ANOTHER}"
        )
    return int(last) + 1


def _make_printable(record: logging.LogRecord) -> bool:
    record.msg, record.args = printable(record.getMessage()), None
    return True


@contextmanager
def _without_marks(folder: Path, names: list[str]) -> Iterator[Path]:
    """Yield the folder, or a copy of its tokenizer files without byte order marks if one has a mark."""
    contents = {name: (folder / name).read_bytes() for name in names}
    if not any(content.startswith(BYTE_ORDER_MARK) for content in contents.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for name, content in contents.items():
            (Path(copy) / name).write_bytes(content.removeprefix(BYTE_ORDER_MARK))
        yield Path(copy)
