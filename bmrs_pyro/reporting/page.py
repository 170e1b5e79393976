"""A self-contained HTML page from a template: no links to other files, no network access."""

from __future__ import annotations

__all__ = ["Chart", "chart", "render"]

import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import count
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.axes import Axes

from bmrs_pyro.reporting.plots import KEPT, ODDS, REMOVED, RULE

# the style sheet has lighter colours for dark pages
_COLORS = {RULE: "currentColor", KEPT: "var(--kept)", REMOVED: "var(--removed)", ODDS: "var(--odds)"}

_TEMPLATES = Environment(
    loader=PackageLoader("bmrs_pyro.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Chart:
    """An inline SVG with its heading.

    Attributes:
        svg: the picture.
        title: its heading.
        note: text in smaller type beside the title.
    """

    svg: Markup
    title: str
    note: str = ""


def render(template: str, **content: Any) -> str:
    """Return the page of a template; all texts in it are escaped."""
    return _TEMPLATES.get_template(template).render(content)


def chart(ax: Axes, title: str, note: str = "", rows: Sequence[str] = ()) -> Chart:
    """Return axes as an inline SVG in the page's colours.

    Args:
        ax: the axes; their whole figure is drawn.
        title: title of the figure, also for screen readers.
        note: a second text; title and note together must be unique on the page.
        rows: one text for each marker of the line with the gid ``points``. Marker i can be focused by keyboard and
            shows the element ``point-i``.
    """
    whole = ax.get_figure(root=True)
    if whole is None:
        raise ValueError("the axes belong to no figure")
    # text stays text: searchable, in the font and colour of the page;
    # the salt makes ids unique on the page, and the same figure always gives the same bytes
    buffer = StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title + note}):
        whole.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, name in _COLORS.items():
        svg = svg.replace(color.lower(), name)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    if rows:
        before, group, points = svg.partition('<g id="points">')
        points, end, after = points.partition("</g>")
        places = count()
        svg = before + group + re.sub("<use ", lambda _: _reachable(next(places), rows), points) + end + after
    # all figures have the same group ids, and nothing refers to them
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    role = "group" if rows else "img"
    svg = svg.replace("<svg ", f'<svg role="{role}" aria-label="{escape(title)}" ', 1)
    return Chart(Markup(svg), title, note)


def _reachable(place: int, rows: Sequence[str]) -> str:
    return f'<use tabindex="0" role="img" aria-label="{escape(rows[place])}" data-row="point-{place}" '
