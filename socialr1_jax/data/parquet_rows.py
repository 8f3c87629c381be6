"""Random access to the rows of a large Parquet file without loading it into memory.

Parquet compresses columns in groups of up to a million rows, so reading one row means decoding a whole group, which
takes seconds. The file is therefore decoded once, as a stream, into an unnamed temporary file in Arrow's uncompressed
format, which is memory-mapped: 1.2 s and 0.6 GB of disk for 1,000,000 stories of 400 characters, then 0.1 ms per row.
"""

import errno
import mmap
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from socialr1_jax.data.tables import Conditions, DataError, Row, import_parquet

_BATCH = 4096  # rows decoded at once, and mapped for access to one of them


def parquet_shape(path: Path) -> tuple[int, tuple[str, ...]]:
    """Return the number of rows and the columns of a Parquet file, from its footer. Raises DataError."""
    import_parquet(path)
    import pyarrow.parquet

    with _named_errors(path), pyarrow.parquet.ParquetFile(path) as file:
        return file.metadata.num_rows, tuple(file.schema_arrow.names)


class ParquetRows:
    """The rows of a Parquet file that meet the conditions.

    Columns that are neither in `used` nor scalar are dropped (an embedding for each question would fill the disk). The
    temporary file is in `tempfile.gettempdir()` (TMPDIR), and disappears when the process ends, even on a crash.

    Raises DataError for a file that cannot be fully decoded, and for a full disk.
    """

    def __init__(self, path: Path, used: Collection[str], conditions: Conditions) -> None:
        import pyarrow
        import pyarrow.parquet

        numbers, sizes, before = [], [], 0
        with _named_errors(path), tempfile.TemporaryFile() as spilled:  # closing it writes
            with pyarrow.parquet.ParquetFile(path, memory_map=True) as file:
                fields = [
                    field.with_type(field.type.value_type) if pyarrow.types.is_dictionary(field.type) else field
                    for field in file.schema_arrow
                    if field.name in used or field.name in conditions.columns or not pyarrow.types.is_nested(field.type)
                ]
                schema = pyarrow.schema(fields)
                tested = [name for name in conditions.columns if name in schema.names]
                conditions.know(schema.names)
                with pyarrow.ipc.new_file(spilled, schema) as writer:
                    for batch in file.iter_batches(_BATCH, columns=schema.names):
                        # Row groups have different dictionaries, which Arrow's file format does not allow.
                        flat = pyarrow.Table.from_batches([batch]).select(schema.names).cast(schema)
                        if conditions.columns:
                            mask = [conditions.hold(row) for row in flat.select(tested).to_pylist()]
                            numbers.append(np.flatnonzero(mask) + before + 1)
                            flat = flat.filter(pyarrow.array(mask))
                        before += batch.num_rows
                        if flat.num_rows:
                            sizes.append(flat.num_rows)
                            writer.write_table(flat.combine_chunks())
            spilled.flush()
            mapped = mmap.mmap(spilled.fileno(), 0, access=mmap.ACCESS_READ)
        pyarrow.default_memory_pool().release_unused()
        self._path = str(path)
        self._batches = pyarrow.ipc.open_file(pyarrow.py_buffer(mapped))
        self._ends = np.cumsum(sizes)
        self._numbers = np.concatenate(numbers) if numbers else None

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:
        at = int(np.searchsorted(self._ends, index, side="right"))
        batch = self._batches.get_batch(at)
        (values,) = batch.slice(index - int(self._ends[at]) + batch.num_rows, 1).to_pylist()
        return Row(self._path, index + 1 if self._numbers is None else int(self._numbers[index]), values)


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Convert errors of Arrow and the system to DataError."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a whole Parquet file ({error})") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DataError(
                f"{path}: no room to decode it in {tempfile.gettempdir()}; set TMPDIR to a folder on a larger disk"
            ) from None
        raise DataError(f"{path}: cannot read the file ({error.strerror or error})") from None
