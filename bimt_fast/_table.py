"""Tables: reading them, and what is wrong with their columns, in a sentence each."""

import csv
import io
import os
import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

Columns = dict[str, np.ndarray]  # (n,) each: float64, NaN where missing, or object where a cell is no number

_MISSING = {"", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"}
_FEW_ROWS = 50
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # numbers that int64 holds and writes in the same way


def read(path: str | os.PathLike, text: Collection[str] = ()) -> Columns:
    """Reads a CSV file (UTF-8; comma, semicolon or tab; names in the first line) or a Parquet file.

    Args:
        path: of the file; pandas or polars reads Parquet.
        text: names of columns whose cells stay what they are: of CSV, text, missing only where it is empty.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no table, or names that are empty or not distinct.
        ImportError: it is a Parquet file, and neither pandas nor polars is installed.
    """
    path = Path(path)
    columns = (_read_parquet if path.suffix.lower() in (".parquet", ".pq") else _read_csv)(path, text)
    check_names(list(columns))
    if not len(next(iter(columns.values()), ())):
        raise ValueError(f"{path} must hold rows below its names, held none")
    return columns


def _read_csv(path: Path, text: Collection[str]) -> Columns:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8, byte {error.start + 1} was not") from None
    delimiter = max(",;\t", key=lambda delimiter: _cells_of_first_line(content, delimiter))
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        if not any(names):
            raise ValueError(f"{path} must begin with the names of its columns, began with an empty line")
        check_names(names)
        rows = []
        for row in filter(None, reader):
            if len(row) != len(names):
                cells = f"{len(names)} cells, one a name, had {len(row)}"
                raise ValueError(f"line {reader.line_num} of {path} must have {cells}")
            rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} of {path} must be CSV: {error}") from None
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return {
        name: _text([cell or None for cell in column]) if name in text else _numbers_or_text(column)
        for name, column in zip(names, cells, strict=True)
    }


def _cells_of_first_line(content: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True), []))
    except csv.Error:  # such as a quoted name that goes on behind its quote
        return 0


def _numbers_or_text(cells: Sequence[str]) -> np.ndarray:
    truths = {"true": "1", "false": "0"}
    words = truths if all(cell.lower() in truths for cell in cells if cell not in _MISSING) else {}
    try:
        return np.array([np.nan if cell in _MISSING else _number(words.get(cell.lower(), cell)) for cell in cells])
    except ValueError:
        return _text([None if cell in _MISSING else cell for cell in cells])


def _number(cell: str) -> float:
    if "_" in cell:  # which Python takes, between digits
        raise ValueError
    return float(cell)


def _read_parquet(path: Path, text: Collection[str]) -> Columns:
    library = next(filter(None, map(_installed, ("pandas", "polars"))), None)
    if library is None:
        raise ImportError("Parquet files need pandas or polars: pip install pandas pyarrow")
    try:
        frame = library.read_parquet(path)
    except (OSError, ImportError):
        raise
    except Exception as error:  # each library raises its own
        raise ValueError(f"{path} must be a Parquet file, could not be read as one: {error}") from error
    return _columns(library, frame, text)


def _installed(name: str) -> ModuleType | None:
    try:
        return import_module(name)
    except ImportError:
        return None


def _columns(library: ModuleType, frame, text: Collection[str]) -> Columns:
    """Of a pandas or polars DataFrame."""
    if library.__name__ == "pandas":
        is_number = library.api.types.is_numeric_dtype
        return {
            str(name): column.to_numpy(dtype=float, na_value=np.nan)
            if is_number(column) and name not in text
            else _text(column.tolist())
            for name, column in frame.items()
        }
    return {
        column.name: column.cast(library.Float64).to_numpy()
        if (column.dtype.is_numeric() or column.dtype == library.Boolean) and column.name not in text
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
        ValueError: one is not there, holds text or dates, or as refuse_bad.
    """
    for name in names:
        if name not in columns:
            raise ValueError(f"{role} {name!r} must be in the table, which had {', '.join(columns)}")
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


def draw(classes: np.ndarray, share: float, random: np.random.RandomState) -> np.ndarray:
    """Bool (n,): a share of the rows, of each of the classes (n,) alike."""
    drawn = np.zeros(len(classes), dtype=bool)
    for label in np.unique(classes):
        of_class = np.flatnonzero(classes == label)
        drawn[random.permutation(of_class)[: round(share * len(of_class))]] = True
    return drawn


def is_constant(column: np.ndarray) -> bool:
    """Whether all entries are the same, to rounding."""
    return np.ptp(column) <= 1e-12 * np.abs(column).max(initial=0)


def classes_of(name: str, column: np.ndarray) -> np.ndarray:
    """Class labels as a person wrote them: whole numbers as int64, all else as text; numbers with fractions stay such.

    Args:
        name: of the column.
        column: object (n,) without missing cells, see `read`.
    """
    cells = [str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell) for cell in column]
    if all(map(_WHOLE.fullmatch, cells)):
        return np.array(cells).astype(np.int64)
    if all(map(_is_number, cells)) and any(float(cell) % 1 > 0 for cell in cells):
        return np.array(cells).astype(float)
    for label in sorted(_MISSING.intersection(cells)):
        warnings.warn(f"target {name!r} should be empty where it is missing: {label!r} was taken for a class")
    return np.array(cells)
