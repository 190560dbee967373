"""Rows from local files, whatever their format: .jsonl, .json, .csv and .parquet, packed or not, one file or shards.

A row comes with its place, because whatever is wrong with it is said to a person. Files are read a row at a time, but for
.json that holds one array.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypeAlias

Row: TypeAlias = tuple[str, Mapping[str, Any]]
"""A place, such as train.jsonl:7, and the columns there."""
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ENDINGS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
FIELD = 2**27
"""Characters of a field of a .csv at most; Python's own limit is 131,072."""


def split_files(path: str, split: str, config: str | None = None) -> list[Path]:
    """The files of a split: `path` itself, with {split} filled in, or those of that name in the folder `path`.

    In a folder (or its data/ or CONFIG/, as on the hub) they are SPLIT.jsonl and its like, or shards SPLIT-*.parquet.
    """
    filled = Path(path.replace("{split}", split)).expanduser()
    if filled.is_file():
        suffix_of(filled)
        return [filled]
    if not filled.is_dir():
        raise FileNotFoundError(f"no data for the split {split!r}: {filled} does not exist")
    folders = [filled, *(filled / name for name in (config, "data") if name)]
    for folder in folders:
        for ending in ENDINGS:
            if (folder / f"{split}{ending}").is_file():
                return [folder / f"{split}{ending}"]
        if shards := sorted(file for ending in ENDINGS for file in folder.glob(f"{split}-*{ending}")):
            return shards
    there = sorted(file.name for folder in folders if folder.is_dir() for file in folder.iterdir() if _known(file))
    raise FileNotFoundError(
        f"no data for the split {split!r}: {filled / split}.jsonl (or .json, .csv, .parquet; also .gz) does not exist; "
        + (f"there are {', '.join(there[:8])}" if there else "the folder holds no such file")
    )


def read_files(files: Iterable[Path]) -> Iterator[Row]:
    """The rows of the files, in order; ValueError where a file cannot be read or none of them holds a row."""
    files, found = list(files), False
    for file in files:
        try:
            for row in READERS[suffix_of(file)](file):
                found = True
                yield row
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from error
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{file}: not a whole gzip file ({error}). Copy it again, or unpack it.") from error
    if not found:
        raise ValueError(f"{', '.join(map(str, files))}: no rows; the file is empty")


def suffix_of(file: Path) -> str:
    """Its format; ValueError for one that cannot be read."""
    suffix = Path(file.name.removesuffix(".gz")).suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"{file}: cannot read {suffix!r} files; use one of {', '.join(SUFFIXES)}")
    return suffix


def read_jsonl(file: Path) -> Iterator[Row]:
    """One JSON object a line; empty lines are skipped."""
    with _text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_once)
            except (ValueError, RecursionError) as error:  # also for a name twice, and for a number of 5,000 digits
                raise ValueError(f"{file}:{number}: not JSON ({error}); one object a line is needed") from error
            yield _object(row, f"{file}:{number}")


def read_json(file: Path) -> Iterator[Row]:
    """An array of objects, or one object a line."""
    with _text(file) as text:
        start = text.read(100).lstrip()
        if not start.startswith("["):
            yield from read_jsonl(file)
            return
        text.seek(0)
        whole = text.read()
        try:
            rows = json.loads(whole, object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: not JSON ({error})") from error
    for number, row in enumerate(rows):
        yield _object(row, f"{file}: row {number}")


def read_csv(file: Path) -> Iterator[Row]:
    """Comma-separated, the first line names the columns."""
    csv.field_size_limit(max(FIELD, csv.field_size_limit()))
    try:
        with _text(file) as text:
            rows = csv.DictReader(text, strict=True)
            if rows.fieldnames and len(set(rows.fieldnames)) < len(rows.fieldnames):
                raise ValueError(f"{file}:1: a column occurs twice: {', '.join(rows.fieldnames)}")
            for row in rows:
                place = f"{file}:{rows.line_num}"
                if None in row or None in row.values():
                    raise ValueError(f"{place}: another number of fields than the {len(rows.fieldnames or ())} columns")
                yield place, row
    except csv.Error as error:
        raise ValueError(f"{file}: not CSV ({error})") from error


def read_parquet(file: Path) -> Iterator[Row]:
    """A few rows of the columns in memory at a time."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(batch_size=256):
                for row in batch.to_pylist():
                    yield f"{file}: row {number}", row
                    number += 1
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{file}: not a parquet file ({str(error).splitlines()[0]})") from error


READERS = {".jsonl": read_jsonl, ".json": read_json, ".csv": read_csv, ".parquet": read_parquet}


def _text(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8-sig", newline="")
    return file.open(encoding="utf-8-sig", newline="")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError where a name stands twice, of which Python would silently take the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} occurs twice in an object")
    return found


def _object(row: Any, place: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a JSON {type(row).__name__} instead of an object with columns")
    return place, row


def _known(file: Path) -> bool:
    return file.is_file() and file.name.endswith(ENDINGS)
