"""How Sphinx builds the documentation; `make docs` treats every warning as an error."""

from __future__ import annotations

import re
from importlib.metadata import version as _version
from typing import Any

project = "bmrs_pyro"
author = "the bmrs_pyro authors"
release = version = _version("bmrs-pyro")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"bmrs_pyro {version}"

default_role = "code"  # docstrings write `x` for code, with one backtick or two
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "imported-members": True}
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # `mean` is an attribute of many classes

myst_heading_anchors = 3


def _as_written(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Show docstrings as they are written: indented formulas verbatim, |x| as absolute value."""
    shown: list[str] = []
    for line in lines:
        formula = line.startswith("    ") and len(shown) > 1 and not shown[-1]
        if formula and shown[-2] and not shown[-2].startswith(" ") and not shown[-2].endswith("::"):
            shown += ["::", ""]
        shown.append(line)
    verbatim = False
    for number, line in enumerate(shown):
        verbatim = line == "::" or (verbatim and (not line or line.startswith(" ")))
        if not verbatim:
            shown[number] = re.sub(r"(`+[^`]+`+)|\|", lambda found: found[1] or r"\|", line)
    lines[:] = shown


def setup(app: Any) -> None:
    """Change docstrings before napoleon (at priority 500) reads their sections."""
    app.connect("autodoc-process-docstring", _as_written, priority=400)
