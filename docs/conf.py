"""How Sphinx builds these pages: ``make docs``.

Plain Markdown, read by MyST, so that the pages can be read in the repository too. Nothing is
fetched from elsewhere, neither by the build nor by whoever looks at a page: Furo uses the reader's
own fonts and brings its icons along, and the search runs in the browser.
"""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "stickyproxy"
author = "the stickyproxy authors"
version = release = version_of("stickyproxy")

extensions = ["myst_parser"]
exclude_patterns = ["conf.py"]
highlight_language = "none"
nitpicky = True

myst_heading_anchors = 4  # GitHub's anchors, so that links work there and here

html_theme = "furo"
html_title = "stickyproxy"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
