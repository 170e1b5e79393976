"""The parts of a page of HTML that needs nothing but itself: no script, no network access."""

from __future__ import annotations

__all__ = ["document", "figure", "section", "table"]

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from io import StringIO

import matplotlib as mpl
from matplotlib.axes import Axes

from bmrs_pyro.reporting.plots import KEPT, REMOVED, RULE

# the style sheet has lighter ones for dark pages
_COLORS = {RULE: "currentColor", KEPT: "var(--kept)", REMOVED: "var(--removed)"}


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole page."""
    style = files("bmrs_pyro.reporting").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """Return a section; the parts are HTML."""
    return "\n".join([f"<section>\n<h2>{escape(heading)}</h2>", *parts, "</section>"])


def figure(ax: Axes, title: str, caption: str = "") -> str:
    """Return axes as an inline SVG in the page's colours, with a title and an HTML caption.

    Args:
        ax: the axes; their whole figure is drawn.
        title: what the figure shows, for the eye and for screen readers; unique on the page.
        caption: a sentence of HTML.
    """
    whole = ax.get_figure(root=True)
    if whole is None:
        raise ValueError("the axes belong to no figure")
    # text stays text: searchable, in the font and colour of the page;
    # the salt keeps the ids of one page's figures apart, and the same figure the same bytes
    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        whole.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, name in _COLORS.items():
        svg = svg.replace(color.lower(), name)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # groups are called alike in all figures, and nothing refers to them
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return f"<figure>\n<h3>{escape(title)}</h3>\n{svg}\n<figcaption>{caption}</figcaption>\n</figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names the rows."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
