"""Sphinx builds the documentation: `make docs` writes build/docs/index.html, and fails on a warning."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import generate  # noqa: E402

# Beam remarks at import on extras that are not installed.
logging.getLogger().setLevel(logging.ERROR)

with mock.patch("setuptools.setup"):
    version = release = runpy.run_path(str(ROOT / "setup.py"))["VERSION"]

project = "attribeam"
html_title = f"attribeam {version}"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_generated"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_copyright = False
html_copy_source = False
# Fonts and scripts come with the theme: a built page needs no network.
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "friendly", "github-dark"
copybutton_prompt_text = "$ "

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
# Code is between single backticks in docstrings.
default_role = "code"
napoleon_use_rtype = False
# Types of other packages, and of ours that have no entry of their own, are not links.
nitpick_ignore_regex = [("py:.*", r"(?!(pipeline|transforms)\.[A-Z]).*")]


def setup(app: Any) -> None:
    """Generates the reference before pages are read."""
    app.connect("builder-inited", lambda _: generate.write())
