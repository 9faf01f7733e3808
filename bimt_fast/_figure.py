"""What all figures share. Needs matplotlib, imported only when a figure is drawn; never a display or pyplot."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE = (0.12, 0.38, 0.75), (0.84, 0.15, 0.16)  # RGB of connections
UNSIGNED = (0.3, 0.3, 0.34)  # of sums over several entries
PALE = (0.6, 0.63, 0.69, 1.0)  # RGBA of frames and helping lines
FONT_SIZE = 10.0  # points


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def save(ax: "Axes", path: str | os.PathLike) -> None:
    """Writes the figure of the axes without spare margins; an SVG of the same figure has the same bytes."""
    import matplotlib

    figure = ax.figure
    figure.draw_without_rendering()  # lays it out and finds its margins once; savefig would draw pixels twice for that
    box = figure.get_tightbbox().padded(0.05)
    engine = figure.get_layout_engine()
    figure.set_layout_engine(None)
    metadata = {"Date": None} if os.fspath(path).lower().endswith(".svg") else None
    try:
        with matplotlib.rc_context({"svg.hashsalt": "bimt_fast"}):
            figure.savefig(path, dpi=200, bbox_inches=box, metadata=metadata)
    finally:
        figure.set_layout_engine(engine)
