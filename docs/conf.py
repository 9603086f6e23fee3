"""Sphinx configuration of the site: `make docs` builds it, and a broken link or image fails."""

project = "Torchrelay"
author = "The Torchrelay authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3  # a heading's address is that of GitHub, so that links work in both places
exclude_patterns = ["pictures/*.md"]
html_theme = "furo"
html_title = "Torchrelay"
html_show_sourcelink = False
suppress_warnings = ["misc.highlighting_failure"]  # console blocks hold prompts and shortened replies
