"""Find folders of models and data sets by Hugging Face hub id. Imports no JAX."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from socialr1_jax.runtime.terminal import first_line

log = logging.getLogger(__name__)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form owner/name of a hub id; it may also be a folder."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def cached_folder(path: str) -> Path | None:
    """Return a model's folder without downloading: the folder itself or a hub id's cached snapshot, None if not cached.

    Raises ValueError for a name that is not a folder and cannot be a hub id.
    """
    if Path(path).is_dir() or not is_hub_id(path):
        return Path(path)
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return find_snapshot(path, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ValueError(f"model path {path!r} is not a folder and cannot be a hub id: {error}") from error


def find_snapshot(name: str, *, allow_patterns: Sequence[str] | None = None, local_files_only: bool = False) -> Path:
    """Return the local snapshot of a hub id, downloaded unless `local_files_only` or HF_HUB_OFFLINE is set.

    If the hub has no such model, this tries variants with `-` and `_` exchanged in the last separators, since names are
    spelled both ways, and logs the one it uses. Offline, variants are only searched in the cache. Raises as
    `snapshot_download` does for `name` itself.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def snapshot(spelling: str, cached: bool) -> Path:
        patterns = list(allow_patterns) if allow_patterns else None
        return Path(snapshot_download(spelling, allow_patterns=patterns, local_files_only=cached))

    try:
        return snapshot(name, local_files_only)
    except GatedRepoError:
        raise
    except (RepositoryNotFoundError, LocalEntryNotFoundError) as error:
        # LocalEntryNotFoundError: offline, so it is unknown whether the model exists.
        cached = isinstance(error, LocalEntryNotFoundError)
        reason = f"{name} is not in the cache" if cached else f"there is no model {name}"
        for other in _other_spellings(name):
            with suppress(RepositoryNotFoundError, LocalEntryNotFoundError, HFValidationError):
                folder = snapshot(other, cached)
                log.warning("%s; taking %s%s", reason, other, ", which is" if cached else "")
                return folder
        raise


def find_data(name: str, files: Sequence[str], *, revision: str = "main", local_files_only: bool = False) -> Path:
    """Return the local snapshot of a data set that has some of these files (glob patterns).

    It is downloaded unless `local_files_only` or HF_HUB_OFFLINE is set. If the revision is not available, the newest
    one is used. Raises FileNotFoundError with the reason in one line.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    reason = f"not in the cache {constants.HF_HUB_CACHE}, and the hub is not asked or does not answer"
    for which in dict.fromkeys((revision, "main")):
        try:
            folder = snapshot_download(
                name, repo_type="dataset", revision=which, allow_patterns=list(files), local_files_only=local_files_only
            )
        except LocalEntryNotFoundError:
            continue
        except Exception as error:  # the hub raises many kinds: no such data set, no access
            reason = first_line(error)
            continue
        if any(file.is_file() for pattern in files for file in Path(folder).glob(pattern)):
            return Path(folder)
        reason = f"{folder} has none of {', '.join(files[:3])}"
    raise FileNotFoundError(reason)


def _other_spellings(name: str) -> Iterator[str]:
    """Yield the name with its last, its last two, ... separators exchanged."""
    owner, _, repository = name.partition("/")
    exchanged = repository.translate(str.maketrans("-_", "_-"))
    for place in reversed([match.start() for match in re.finditer("[-_]", repository)]):
        yield f"{owner}/{repository[:place]}{exchanged[place:]}"
