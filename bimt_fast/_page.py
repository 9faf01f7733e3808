"""Pages of HTML that need no other file: text, tables and pictures in one. Needs matplotlib only for its figures."""

import base64
import io
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ._figure import DPI, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SVG_BYTES = 300_000  # of a figure; a larger one becomes pixels
_DOT, _PATH, _POINT = 115, 190, 26  # bytes of an SVG for a marker, and for a path and each of its points
_TYPES = {
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
_STYLE = """
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; background: #fff; color: #1b1b1f;
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; break-after: avoid; }
p { margin: .5rem 0; }
figure { margin: 1.2rem 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: #55565c; font-size: .9rem; margin-top: .5rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .28rem 1.1rem .28rem 0; border-bottom: 1px solid #e3e4e8; }
th { border-bottom-color: #8b8d95; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tr { break-inside: avoid; }
@media print { body { max-width: none; margin: 0; padding: 0; font-size: 10.5pt; } .wide { overflow: visible; } }
"""


class Page:
    """A page of HTML, put together from top to bottom, that opens offline: pictures are inside it.

    All text is escaped, so it may hold anything.

    Args:
        title: of the page, also its first heading.

    Raises:
        TypeError: a text is no string.
    """

    def __init__(self, title: str) -> None:
        self._title = _escaped("title", title)
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{_escaped('text', text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph; several, where blank lines part them."""
        self._parts += [f"<p>{part.strip()}</p>" for part in _escaped("text", text).split("\n\n") if part.strip()]

    def figure(self, figure: "Figure | str | os.PathLike", caption: str = "", alt: str | None = None) -> None:
        """A picture with its caption.

        Args:
            figure: a matplotlib Figure, kept as SVG where that is small, else as pixels; or a GIF, JPEG, PNG or SVG
                file, kept as it is.
            caption: below the picture.
            alt: what the picture shows, for those who cannot see it; None: the caption.

        Raises:
            TypeError: figure is neither.
            ValueError: the file is of another kind.
            OSError: the file cannot be read.
        """
        kind, content, width = _from_file(figure) if isinstance(figure, (str, os.PathLike)) else _from_figure(figure)
        data = base64.b64encode(content).decode()
        alt = _escaped("alt", caption if alt is None else alt)
        size = f' width="{width}"' if width else ""
        below = f"<figcaption>{_escaped('caption', caption)}</figcaption>" if caption else ""
        self._parts.append(f'<figure><img src="data:{kind};base64,{data}" alt="{alt}"{size}>{below}</figure>')

    def table(self, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; numbers stand at the right of their cells, floats with four digits, None a dash.

        Args:
            heads: of the columns; none at all: a table without a head.
            rows: as many cells each as there are heads.

        Raises:
            ValueError: a row has more or fewer cells than there are heads.
        """
        lines = [f"<tr>{''.join(f'<th>{escape(str(head))}</th>' for head in heads)}</tr>"] if heads else []
        for row in rows:
            if heads and len(row) != len(heads):
                raise ValueError(f"rows must hold {len(heads)} cells, one a head, had one of {len(row)}")
            lines.append(f"<tr>{''.join(map(_cell, row))}</tr>")
        self._parts.append('<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>")

    def html(self) -> str:
        """The whole page."""
        head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">'
        body = "\n".join((f"<h1>{self._title}</h1>", *self._parts))
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n<title>{self._title}</title>\n'
            f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike) -> None:
        """Replaces the file at once, so that it is there in whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        new = Path(f"{os.fspath(path)}.new")
        new.write_text(self.html(), encoding="utf-8")
        os.replace(new, path)


def _escaped(argument: str, text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{argument} must be a string, was {type(text).__name__}")
    return escape(text)


def _cell(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
        return f'<td class="number">{text}</td>'
    return f"<td>{'-' if value is None else escape(str(value))}</td>"


def _from_file(path: str | os.PathLike) -> tuple[str, bytes, None]:
    path = Path(path)
    kind = _TYPES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"figure must be a file that ends in {', '.join(_TYPES)}, was {str(path)!r}")
    return kind, path.read_bytes(), None


def _from_figure(figure: object) -> tuple[str, bytes, int | None]:
    """Media type, content, and width in CSS pixels where the content does not say it."""
    if not hasattr(figure, "savefig"):
        raise TypeError(f"figure must be a matplotlib Figure or a path, was {type(figure).__name__}")
    kind, written = "svg" if _vector_bytes(figure) <= _SVG_BYTES else "png", io.BytesIO()
    save_figure(figure, written, kind)
    content = written.getvalue()
    if kind == "svg":
        return _TYPES[".svg"], content, None
    pixels = int.from_bytes(content[16:20], "big")  # a PNG's header holds its width there
    return _TYPES[".png"], content, round(96 * pixels / DPI)


def _vector_bytes(figure: "Figure") -> int:
    """About how many an SVG of its curves, dots and surfaces would have, without drawing it."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D

    size = 0
    for line in figure.findobj(Line2D):
        size += len(line.get_xdata()) * (_DOT if line.get_marker() not in ("None", "none", "", " ", None) else _POINT)
    for collection in figure.findobj(Collection):
        size += _DOT * len(collection.get_offsets())
        size += sum(_PATH + _POINT * len(path.vertices) for path in collection.get_paths())
    return size
