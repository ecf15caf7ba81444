"""Making and saving figures: matplotlib is imported at the first picture, and pyplot never is.

Figure objects without pyplot have no global state, need no display, and are freed like any other object.
"""

from __future__ import annotations

from pathlib import Path

from .._files import atomic_write, legible

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
_FORMATS = ("png", "pdf", "svg", "jpg", "jpeg", "webp", "tif", "tiff")


def new_figure(width, height):
    """A matplotlib Figure of width x height inches, laid out so that nothing overlaps."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("fastcnn.viz needs matplotlib: pip install matplotlib") from error
    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def tidy(ax):
    """The look that all figures share: a light grid, two spines, a legend where lines have labels."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize="small", loc="best", edgecolor="none", framealpha=0.85)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)


def finish(figure, path):
    """Saves to `path` if given (temporary file, fsync, rename) and returns the figure."""
    for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
        text.set_parse_math(False)  # names of classes and files may hold $
        text.set_text(legible(text.get_text()))
    if path is not None:
        suffix = Path(path).suffix.lstrip(".").lower()
        if suffix not in _FORMATS:
            raise ValueError(
                f"viz: expected a path ending in {' '.join('.' + f for f in _FORMATS)}, got {path}"
            )
        with atomic_write(path) as file:
            figure.savefig(file, format=suffix)
    return figure
