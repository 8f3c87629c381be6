"""Refuse to train on benchmark files whose authors forbid it; they are recognised by their checksums."""

from collections.abc import Sequence
from pathlib import Path

from socialr1_jax.data.tables import DataError, source_files
from socialr1_jax.runtime.files import sha256

_TOLD_DIGITS = 12
_LARGEST = 32 * 2**20  # bytes; all known files are smaller, so larger ones need not be read


def read_sums(file: Path) -> dict[str, dict[str, str]]:
    """Read a file in the format of `sha256sum`, with names "benchmark/file": benchmark -> SHA-256 -> file."""
    sums: dict[str, dict[str, str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        digest, _, path = line.partition("  ")
        benchmark, _, name = path.partition("/")
        sums.setdefault(benchmark, {})[digest] = name
    return sums


# ToMBench is that of zhchen18/ToMBench @ 4f491f0. FANToM is the official archive, and the set reassembled from mirrors.
# TactfulToM is that of nii-cl/tactful-tom @ 0881b0d, and the first nine conversations of its first file. Modified
# copies, even with other line ends, are not recognised.
EVALUATION_SETS = read_sums(Path(__file__).with_suffix(".sha256"))


def refuse_evaluation_sets(sources: Sequence[str | Path], told: str = "") -> None:
    """Raise DataError if a training source is a file of an evaluation-only benchmark.

    `told` (`data.train_on_evaluation_set`) lists exceptions: the first 12 digits of a file's SHA-256, separated by
    commas. Unreadable files are ignored here; opening them fails later.
    """
    allowed = {part.strip().lower() for part in told.split(",")}
    for source in map(str, sources):
        for file in () if source.partition(":")[0] == "stories" else source_files(source):
            if (known := evaluation_set(file)) is None or known[2][:_TOLD_DIGITS] in allowed:
                continue
            benchmark, name, digest = known
            raise DataError(
                f"{source}: {file.name} is {name} of {benchmark}, whose authors forbid training on it: a model that "
                "has seen it cannot be measured by it any more. Take another source; or, if you mean it, set "
                f"data.train_on_evaluation_set={digest[:_TOLD_DIGITS]} as well"
            )


def evaluation_set(file: Path) -> tuple[str, str, str] | None:
    """Return (benchmark, file name, SHA-256) of an evaluation-only file; None for other or unreadable files."""
    try:
        if file.stat().st_size > _LARGEST:
            return None
        digest = sha256(file)
    except OSError:
        return None
    found = ((benchmark, files[digest], digest) for benchmark, files in EVALUATION_SETS.items() if digest in files)
    return next(found, None)
