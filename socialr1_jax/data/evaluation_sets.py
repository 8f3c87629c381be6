"""Benchmark files whose authors forbid training on them, known by their checksums, and the refusal to train on one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from socialr1_jax.data.tables import DataError, source_files
from socialr1_jax.runtime.files import sha256

_TOLD_DIGITS = 12
_LARGEST = 32 * 2**20  # bytes; every file of the table is smaller, and a larger one need not be read


def _read_sums() -> dict[str, dict[str, str]]:
    """Return benchmark -> SHA-256 -> file of `evaluation_sets.sha256`, whose lines are those of `sha256sum`.

    ToMBench as of zhchen18/ToMBench @ 4f491f0; FANToM: the official archive, and the set that is put together again
    from mirrors; TactfulToM as of nii-cl/tactful-tom @ 0881b0d, and the first nine conversations of its first file.
    Copies that were changed, a line end included, are not recognised.
    """
    sums: dict[str, dict[str, str]] = {}
    for line in Path(__file__).with_suffix(".sha256").read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        benchmark, _, file = name.partition("/")
        sums.setdefault(benchmark, {})[digest] = file
    return sums


EVALUATION_SETS = _read_sums()


def refuse_evaluation_sets(sources: Sequence[str | Path], told: str = "") -> None:
    """Raises DataError when one of the training sources is a file of an evaluation-only benchmark.

    Unless ``told`` (`data.train_on_evaluation_set`) names the file too: the first 12 digits of its SHA-256, several
    with commas between them. Files that cannot be read are left to what opens them.
    """
    meant = {part.strip().lower() for part in told.split(",")}
    for source, file in _files(sources):
        if (found := evaluation_set(file)) is None or found[2][:_TOLD_DIGITS] in meant:
            continue
        benchmark, name, digest = found
        raise DataError(
            f"{source}: {file.name} is {name} of {benchmark}, whose authors forbid training on it: a model that has "
            "seen it cannot be measured by it any more. Take another source; or, if you mean it, set "
            f"data.train_on_evaluation_set={digest[:_TOLD_DIGITS]} as well"
        )


def evaluation_set(file: Path) -> tuple[str, str, str] | None:
    """Return (benchmark, its file's name, SHA-256) of an evaluation-only benchmark's file; None for any other.

    None as well for a file that cannot be read.
    """
    try:
        if file.stat().st_size > _LARGEST:
            return None
        digest = sha256(file)
    except OSError:
        return None
    for benchmark, files in EVALUATION_SETS.items():
        if digest in files:
            return benchmark, files[digest], digest
    return None


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, Path]]:
    for source in map(str, sources):
        if source.partition(":")[0] == "stories":
            continue
        yield from ((source, file) for file in source_files(source) if file.is_file())
