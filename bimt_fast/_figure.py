"""What all figures share. Needs matplotlib, imported only when a figure is drawn; never a display or pyplot."""

import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POSITIVE, NEGATIVE = (0.12, 0.38, 0.75), (0.84, 0.15, 0.16)  # RGB of connections
UNSIGNED = (0.3, 0.3, 0.34)  # of sums over several entries
PALE = (0.6, 0.63, 0.69, 1.0)  # RGBA of frames and helping lines
FONT_SIZE = 10.0  # points
DPI = 200  # of pictures in pixels


def require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'bimt_fast[plot]'") from None


def check_path(path: object) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string, a path or None, was {type(path).__name__}")
    kinds = FigureCanvasBase.get_supported_filetypes()
    if os.path.splitext(path)[1].lower().removeprefix(".") not in kinds:
        raise ValueError(f"path must end in one of .{', .'.join(sorted(kinds))}, was {os.fspath(path)!r}")


def new_axes(size: tuple[float, float]) -> "Axes":
    """Axes that fill a new figure; size in inches."""
    return new_figure(size).add_subplot()


def new_figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(ax: "Axes", path: str | os.PathLike) -> None:
    """Writes the figure of the axes, see save_figure."""
    save_figure(ax.get_figure(root=True), path)


def save_figure(figure: "Figure", path: str | os.PathLike | BinaryIO, kind: str | None = None) -> None:
    """Writes a figure without spare margins; an SVG of the same figure has the same bytes.

    Args:
        figure: of matplotlib.
        path: a file's, or a file open for writing bytes.
        kind: "svg", "png" and so on; None: as the path ends.
    """
    import matplotlib

    figure.draw_without_rendering()  # lays it out and finds its margins once; savefig would draw pixels twice for that
    box = figure.get_tightbbox().padded(0.05)
    engine = figure.get_layout_engine()
    figure.set_layout_engine(None)
    kind = kind or os.path.splitext(path)[1].lower().removeprefix(".")
    metadata = {"Date": None} if kind == "svg" else None
    try:
        with matplotlib.rc_context({"svg.hashsalt": "bimt_fast"}):
            figure.savefig(path, format=kind, dpi=DPI, bbox_inches=box, metadata=metadata)
    finally:
        figure.set_layout_engine(engine)
