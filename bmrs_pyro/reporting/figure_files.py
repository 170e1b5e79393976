"""Figures as files."""

from __future__ import annotations

__all__ = ["refuse_figure", "save_figure"]

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bmrs_pyro.files import refuse_unwritable, write_atomically


def save_figure(ax: Axes, path: str | Path) -> None:
    """Write the figure of axes to a file; the suffix gives the format.

    Raises:
        ValueError: the format is unknown.
        WriteError: the file cannot be written.
    """
    figure = ax.get_figure(root=True)
    if figure is None:
        raise ValueError("the axes belong to no figure")
    path = Path(path)
    kind = _figure_format(path)
    write_atomically(path, lambda file: figure.savefig(file, dpi=150, format=kind))


def refuse_figure(path: Path) -> None:
    """Raise the errors of :func:`save_figure` before a figure is drawn."""
    _figure_format(path)
    refuse_unwritable(path)


def _figure_format(path: Path) -> str:
    kind, known = path.suffix[1:].lower(), FigureCanvasAgg.get_supported_filetypes()
    if kind not in known:
        raise ValueError(
            f"the figure cannot be written to {path}: {kind or 'no suffix'} is not a figure format; use one of "
            f"{', '.join(sorted(known))}"
        )
    return kind
