"""Model folders by their Hugging Face hub id. Imports no JAX."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def is_hub_id(name: str) -> bool:
    """Returns True for owner/name, which may be a hub id when it is no folder."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def find_snapshot(name: str, *, allow_patterns: Sequence[str] | None = None, local_files_only: bool = False) -> Path:
    """Returns the local snapshot of a hub id, downloaded unless `local_files_only` or HF_HUB_OFFLINE is set.

    If there is no model of this name, tries it with `-` and `_` exchanged in the last separators, since both spellings
    of one name are in use, and logs which one it took. Raises what `snapshot_download` raises for `name` itself.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    def snapshot(spelling: str) -> Path:
        patterns = list(allow_patterns) if allow_patterns else None
        return Path(snapshot_download(spelling, allow_patterns=patterns, local_files_only=local_files_only))

    try:
        return snapshot(name)
    except GatedRepoError:
        raise
    except (RepositoryNotFoundError, LocalEntryNotFoundError):
        for other in _other_spellings(name):
            with suppress(RepositoryNotFoundError, LocalEntryNotFoundError):
                folder = snapshot(other)
                log.warning("there is no model %s; taking %s", name, other)
                return folder
        raise


def _other_spellings(name: str) -> Iterator[str]:
    """Yields the name with its last, its last two, ... separators exchanged."""
    owner, _, repository = name.partition("/")
    exchanged = repository.translate(str.maketrans("-_", "_-"))
    for place in reversed([match.start() for match in re.finditer("[-_]", repository)]):
        yield f"{owner}/{repository[:place]}{exchanged[place:]}"
