"""Load the tokenizer of a model folder; one line says what is wrong with its files. Imports no JAX."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from socialr1_jax.files import BYTE_ORDER_MARK, read_json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
_TAKE_ANOTHER = "put the tokenizer files of the model that its weights come from there"


def has_tokenizer(folder: Path) -> bool:
    """Returns True if the folder has one of the files that hold a vocabulary."""
    return any((folder / name).exists() for name in ("tokenizer.json", "vocab.json"))


def load_tokenizer(folder: str | os.PathLike[str] | None) -> Any:
    """Returns the tokenizer of a local folder as transformers reads it; files may begin with a byte order mark.

    Raises ValueError: one line that names the folder or the file, and the fix.
    """
    folder = Path(os.path.expanduser(folder or ""))
    there = [name for name in ("config.json", *TOKENIZER_FILES) if (folder / name).exists()]
    if not has_tokenizer(folder):  # transformers would make an empty tokenizer
        raise ValueError(f"{folder} has neither tokenizer.json nor vocab.json: {_TAKE_ANOTHER}")
    if "tokenizer.json" not in there and "merges.txt" not in there:
        raise ValueError(f"{folder} has vocab.json without merges.txt: put merges.txt beside it")
    from transformers import AutoTokenizer  # seconds to import

    with _without_marks(folder, there) as readable:
        try:
            tokenizer = AutoTokenizer.from_pretrained(readable, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # of the tokenizers library too, whose errors are plain Exceptions
            for name in there:
                if name.endswith(".json"):
                    read_json(folder / name)  # names the file that is no JSON object
            reason = " ".join(str(error).replace(str(readable), str(folder)).split())[:300] or type(error).__name__
            raise ValueError(
                f"{folder}: the tokenizer cannot be read ({reason}) from {', '.join(there)}: {_TAKE_ANOTHER}"
            ) from error
    tokenizer.name_or_path = str(folder)
    return tokenizer


def count_tokens(folder: Path, vocab_size: int) -> int:
    """Returns one more than the largest id of the folder's tokenizer; the whole vocabulary if there is none.

    Raises ValueError if the tokenizer cannot be read or has an id that the model's vocabulary has not.
    """
    if not has_tokenizer(folder):
        return vocab_size
    vocabulary = load_tokenizer(folder).get_vocab()
    if not vocabulary:
        raise ValueError(f"{folder}: its tokenizer has no tokens: {_TAKE_ANOTHER}")
    token, last = max(vocabulary.items(), key=lambda entry: entry[1])
    if last >= vocab_size:
        raise ValueError(
            f"{folder}: its tokenizer has id {last} ({token!r}), but the model has vocab_size {vocab_size}: "
            f"{_TAKE_ANOTHER}"
        )
    return int(last) + 1


@contextmanager
def _without_marks(folder: Path, names: list[str]) -> Iterator[Path]:
    """Yields the folder, or a temporary copy of its tokenizer files where one begins with a byte order mark."""
    contents = {name: (folder / name).read_bytes() for name in names}
    if not any(content.startswith(BYTE_ORDER_MARK) for content in contents.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for name, content in contents.items():
            (Path(copy) / name).write_bytes(content.removeprefix(BYTE_ORDER_MARK))
        yield Path(copy)
