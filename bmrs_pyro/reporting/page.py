"""A page of HTML from a template, that needs nothing but itself: no address, no network access."""

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

# the style sheet has lighter ones for dark pages
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
        title: what it shows.
        note: in smaller type beside the title.
    """

    svg: Markup
    title: str
    note: str = ""


def render(template: str, **content: Any) -> str:
    """Return a template's page; all texts in it are escaped."""
    return _TEMPLATES.get_template(template).render(content)


def chart(ax: Axes, title: str, note: str = "", rows: Sequence[str] = ()) -> Chart:
    """Return axes as an inline SVG in the page's colours.

    Args:
        ax: the axes; their whole figure is drawn.
        title: what the figure shows, for the eye and for screen readers.
        note: as much again, so that both together are unique on the page.
        rows: what the markers of the line with the gid ``points`` stand for, one text each; the marker of place i can
            be reached by keyboard and shows the element ``point-i``.
    """
    whole = ax.get_figure(root=True)
    if whole is None:
        raise ValueError("the axes belong to no figure")
    # text stays text: searchable, in the font and colour of the page;
    # the salt keeps the ids of one page's figures apart, and the same figure the same bytes
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
    # groups are called alike in all figures, and nothing refers to them
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    role = "group" if rows else "img"
    svg = svg.replace("<svg ", f'<svg role="{role}" aria-label="{escape(title)}" ', 1)
    return Chart(Markup(svg), title, note)


def _reachable(place: int, rows: Sequence[str]) -> str:
    return f'<use tabindex="0" role="img" aria-label="{escape(rows[place])}" data-row="point-{place}" '
