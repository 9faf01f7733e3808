"""Tables: reading them, and what is wrong with their columns, in a sentence each."""

import csv
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

Columns = dict[str, np.ndarray]  # (n,) each: float64, NaN where missing, or object where a cell is no number

_MISSING = {"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"}
_FEW_ROWS = 50
_CHUNK = 1 << 20  # characters of a file from which its delimiter is guessed


def read(path: str | os.PathLike) -> Columns:
    """Reads a CSV file (comma, semicolon or tab; names in the first line) or a Parquet file.

    pandas or polars reads it, where one is installed, else the csv module, which knows no Parquet.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no table, or names that are empty or not distinct.
        ImportError: it is a Parquet file, and neither pandas nor polars is installed.
    """
    path = Path(path)
    library = next(filter(None, map(_installed, ("pandas", "polars"))), None)
    if path.suffix.lower() in (".parquet", ".pq"):
        if library is None:
            raise ImportError("Parquet files need pandas or polars: pip install pandas pyarrow")
        columns = _columns(library, library.read_parquet(path))
    else:
        delimiter, names = _header(path)
        check_names(names)
        if library is None:
            columns = _read_plainly(path, delimiter, names)
        elif library.__name__ == "pandas":
            missing = {"na_values": sorted(_MISSING), "keep_default_na": False}
            frame = library.read_csv(path, sep=delimiter, names=names, skiprows=1, index_col=False, **missing)
            columns = _columns(library, frame)
        else:
            missing = {"null_values": sorted(_MISSING), "infer_schema_length": None}
            frame = library.read_csv(path, separator=delimiter, new_columns=names, **missing)
            columns = _columns(library, frame)
    check_names(list(columns))
    if not len(next(iter(columns.values()))):
        raise ValueError(f"{path} must hold rows below its names, held none")
    return columns


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def _header(path: Path) -> tuple[str, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        first = file.readline(_CHUNK)
    if not first.strip():
        raise ValueError(f"{path} must begin with the names of its columns, began with an empty line")
    delimiter = max(",;\t", key=first.count)
    return delimiter, [name.strip() for name in next(csv.reader([first], delimiter=delimiter))]


def _read_plainly(path: Path, delimiter: str, names: list[str]) -> Columns:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file, delimiter=delimiter) if row][1:]
    for number, row in enumerate(rows, start=1):
        if len(row) != len(names):
            raise ValueError(f"row {number} of {path} must have {len(names)} cells, one a name, had {len(row)}")
    return {name: _numbers_or_text([row[k].strip() for row in rows]) for k, name in enumerate(names)}


def _numbers_or_text(cells: list[str]) -> np.ndarray:
    words = {"True": "1", "False": "0"} if set(cells) <= {"True", "False"} | _MISSING else {}
    try:
        return np.array([np.nan if cell in _MISSING else float(words.get(cell, cell)) for cell in cells])
    except ValueError:
        return np.array([None if cell in _MISSING else cell for cell in cells], dtype=object)


def _columns(library: ModuleType, frame) -> Columns:
    """Of a pandas or polars DataFrame."""
    if library.__name__ == "pandas":
        is_number = library.api.types.is_numeric_dtype
        return {
            str(name): column.to_numpy(dtype=float, na_value=np.nan) if is_number(column) else _text(column.tolist())
            for name, column in frame.items()
        }
    return {
        column.name: column.cast(library.Float64).to_numpy()
        if column.dtype.is_numeric() or column.dtype == library.Boolean
        else _text(column.to_list())
        for column in frame.get_columns()
    }


def _text(cells: list) -> np.ndarray:
    column = np.empty(len(cells), dtype=object)
    column[:] = [None if cell is None or cell != cell else cell for cell in cells]
    return column


def check_names(names: Sequence[str]) -> None:
    """Refuses names of columns that are empty or not distinct, with a ValueError."""
    for k, name in enumerate(names):
        if not name:
            raise ValueError(f"column {k + 1} must have a name, had none")
        if names.count(name) > 1:
            raise ValueError(f"names of columns must be distinct, {name!r} stood {names.count(name)} times")


def choose(columns: Mapping[str, np.ndarray], targets: Sequence[str], inputs: Sequence[str] | None) -> list[str]:
    """Names of the inputs: those asked for, or all columns of numbers that are no targets.

    Raises:
        ValueError: a name is no column or stands twice, a target is also an input, no input is left.
    """
    for argument, names in (("targets", targets), ("inputs", inputs or ())):
        for name in names:
            if name not in columns:
                raise ValueError(f"{argument} must be columns of the table ({', '.join(columns)}), named {name!r}")
            if list(names).count(name) > 1:
                raise ValueError(f"{argument} must name each column once, named {name!r} twice")
            if argument == "inputs" and name in targets:
                raise ValueError(f"inputs must not hold a target, held {name!r}")
    if inputs is not None:
        return list(inputs)
    found = [name for name in columns if name not in targets]
    for name in [name for name in found if columns[name].dtype == object]:
        warnings.warn(
            f"column {name!r} is left out: an input must hold numbers, held text such as {_example(columns[name])}"
        )
        found.remove(name)
    if not found:
        raise ValueError("the table must have a column of numbers beside the targets, had none")
    return found


def _example(column: np.ndarray) -> str:
    return next((repr(cell) for cell in column if cell is not None and not _is_number(cell)), "nothing at all")


def _is_number(cell: object) -> bool:
    try:
        float(cell)
    except (TypeError, ValueError):
        return False
    return True


def matrix(columns: Mapping[str, np.ndarray], names: Sequence[str], role: str = "column") -> np.ndarray:
    """The named columns side by side: float64 (n, names).

    Raises:
        ValueError: one holds text or dates, or as refuse_bad.
    """
    for name in names:
        if columns[name].dtype == object:
            raise ValueError(f"{role} {name!r} must hold numbers, held text such as {_example(columns[name])}")
        refuse_bad(name, columns[name], role)
    return np.column_stack([columns[name] for name in names])


def write(columns: Mapping[str, np.ndarray], path: Path | None) -> None:
    """As CSV, to the terminal where there is no path."""
    with nullcontext(sys.stdout) if path is None else path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))


def refuse_bad(name: str, column: np.ndarray, role: str = "column", numbers: bool = True) -> None:
    """Raises a ValueError where cells are missing or infinite, or text where there must be numbers.

    Args:
        name: of the column.
        column: (n,) of any dtype.
        role: what it is called in the message.
        numbers: whether text is refused.
    """
    if column.dtype.kind in "OSU":
        missing = np.array([cell is None or cell != cell for cell in column], dtype=bool)
        text = numbers and any(isinstance(cell, str) and not _is_number(cell) for cell in column)
        if text:
            raise ValueError(f"{role} {name!r} must hold numbers, held text such as {_example(column)}")
    elif column.dtype.kind in "fc":
        missing = np.isnan(column)
    else:
        return
    if missing.any():
        raise ValueError(f"{role} {name!r} must hold no missing values (NaN), {_where(missing)}")
    if column.dtype.kind == "f" and np.isinf(column).any():
        raise ValueError(f"{role} {name!r} must be finite, {_where(np.isinf(column), 'infinity in ')}")


def _where(bad: np.ndarray, what: str = "") -> str:
    return f"had {what}{bad.sum()} of {len(bad)} rows, row {bad.argmax() + 1} first"


def warn_about(names: Sequence[str], x: np.ndarray, targets: Sequence[str], y: np.ndarray) -> None:
    """Warns of what a network can be fitted to but a person should know.

    Args:
        names, x: of the inputs, (n, inputs).
        targets, y: (n, targets) numbers; classes by their numbers.
    """
    if len(x) < _FEW_ROWS:
        warnings.warn(f"the table should have at least {_FEW_ROWS} rows to tell a rule from chance, had {len(x)}")
    for name, column in zip(names, x.T, strict=True):
        if is_constant(column):
            warnings.warn(f"column {name!r} should vary to be of use, was {column[0]:g} in every row")
            continue
        for target, goal in zip(targets, y.T, strict=True):
            if len(x) > 2 and not is_constant(goal) and abs(np.corrcoef(column, goal)[0, 1]) > 1 - 1e-12:
                warnings.warn(f"column {name!r} should not be the target {target!r} itself, was a straight line of it")


def is_constant(column: np.ndarray) -> bool:
    """Whether all entries are the same, to rounding."""
    return np.ptp(column) <= 1e-12 * np.abs(column).max(initial=0)


def classes_of(column: np.ndarray) -> np.ndarray:
    """Class labels as a person wrote them: whole numbers as int64, all else as it is."""
    if column.dtype.kind == "f" and np.isfinite(column).all() and (column == column.round()).all():
        return column.astype(np.int64)
    return column if column.dtype.kind != "O" else np.array([str(cell) for cell in column])
