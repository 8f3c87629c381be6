"""Write files and folders atomically, and read and write JSON objects."""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from socialr1_jax.runtime.ownership import SOURCE, ForeignFile, is_own_folder, open_own, refuse_foreign_folder

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # of UTF-8; written by some editors
ROW_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")  # of files with rows: questions, pairs, responses
_MOST_JSON = 256 << 20  # bytes of a JSON file; a tokenizer has 11 MB
_PRIVATE = 0o700  # mode of an unfinished folder that can be resumed


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file atomically (text as UTF-8): to a temporary file, which is synced and renamed."""
    path = Path(path)
    if path.is_dir():  # the rename would fail, too, but name the temporary file
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    # An unpredictable name, so that no link can be planted.
    partial = path.with_name(f".{path.name[:50]}.partial-{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextmanager
def whole_folder(
    directory: str | os.PathLike[str], marker: str, source: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a temporary folder next to `directory` that replaces it when the block ends without an error.

    A folder purely of the kind of `marker` is replaced; any other non-empty one raises ForeignFile before anything is
    written (ownership.py). `directory` may start with `~`. If it is a symbolic link, its target is replaced and the
    link stays. Files and folders get the modes of the umask. Leftovers of killed processes are removed first.

    With `source`, a description of the input, an interrupted call can be resumed: the next call with an equal `source`
    gets the temporary folder as it was left. The block must then skip finished files.
    """
    target = Path(os.path.expanduser(directory)).absolute()
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    refuse_foreign_folder(target, marker)
    _clear_left_over(target, marker)
    partial, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("partial", "old"))
    if source is not None:
        partial = target.with_name(f".{target.name}.partial")
        label = partial / SOURCE
        if not _is_private(partial) or not label.is_file() or read_json(label) != source:
            _remove(partial, marker)
            partial.mkdir(mode=_PRIVATE, parents=True)
            write_json(label, source)
    else:
        partial.mkdir(parents=True)
    try:
        yield partial
        (partial / SOURCE).unlink(missing_ok=True)
        _set_modes(partial)
        refuse_foreign_folder(target, marker)  # again: hours may have passed
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except BaseException:  # Ctrl-C
        if source is None:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _is_private(folder: Path) -> bool:
    """Return whether only this user's processes can have created the folder and written to it."""
    try:
        state = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.geteuid() and stat.S_IMODE(state.st_mode) == _PRIVATE


def _remove(folder: Path, marker: str) -> None:
    """Remove an unfinished folder of this kind. Raises ForeignFile for anything else."""
    if folder.is_symlink() or (folder.exists() and not is_own_folder(folder, marker, finished=False)):
        raise ForeignFile(f"{folder} is in the way and this program did not write it: move it away")
    shutil.rmtree(folder, ignore_errors=True)


def _set_modes(folder: Path) -> None:
    """Set the modes of a folder and its contents by the umask, since safetensors writes files with mode 600."""
    probe = folder / ".mode"  # a new folder shows the umask; os.umask() would change it for other threads
    probe.mkdir(exist_ok=True)
    mode = probe.stat().st_mode & 0o777
    probe.rmdir()
    for path in (folder, *folder.rglob("*")):
        wanted = mode if path.is_dir() else mode & 0o666
        if not path.is_symlink() and path.stat().st_mode & 0o777 != wanted:
            path.chmod(wanted | path.stat().st_mode & 0o7000)


def _clear_left_over(target: Path, marker: str) -> None:
    """Remove temporary folders of dead processes, and complete a replacement interrupted between two renames."""
    for path in sorted(target.parent.glob(f".{glob.escape(target.name)}.*-*")):
        kind, _, process = path.name.removeprefix(f".{target.name}.").partition("-")
        known = kind in ("partial", "old") and re.fullmatch("[1-9][0-9]{0,8}", process)
        if not known or _another_runs(int(process)):
            continue
        if path.is_symlink() or not is_own_folder(path, marker, finished=kind == "old"):
            continue
        if kind == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _another_runs(process: int) -> bool:
    """Return whether another process with this id runs; in a container, a dead process may have had our id."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def append(file: Path, lines: Iterable[str]) -> None:
    """Append lines to a file. Raises OSError that names the file, even for a full disk."""
    try:
        with open_own(file, "a", encoding="utf-8") as opened:
            opened.writelines(lines)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def sync(file: Path) -> None:
    """Sync a written file to disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def read_json(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of at most 256 MiB, with or without a byte order mark.

    Raises FileNotFoundError, and ValueError naming the file if it has other content or is not a regular file.
    """
    state = file.stat()
    if stat.S_ISDIR(state.st_mode):
        raise ValueError(f"{file} is a folder: put a file with a JSON object there")
    if not stat.S_ISREG(state.st_mode):  # reading a pipe could block forever
        raise ValueError(f"{file} is not an ordinary file: put a file with a JSON object there")
    if state.st_size > _MOST_JSON:
        raise ValueError(f"{file} has {state.st_size:,} bytes, more than the {_MOST_JSON:,} that such a file may have")
    try:
        value = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON, or cut: {error}") from error
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else repr(value)[:40]
        raise ValueError(f"{file} does not hold a JSON object {{...}} but {kind}")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically; NaN and infinities, which strict JSON lacks, become null."""
    write_whole(file, json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """Replace NaN and infinities by None, also in mappings."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def flattened(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a line of metrics: {"accuracy_by_type": {"belief": 1}} becomes {"accuracy/belief": 1}."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removesuffix('_by_type')}/{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
