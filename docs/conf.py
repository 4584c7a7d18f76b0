"""Sphinx builds the documentation from here: `make docs`."""

import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

project = "aiovfork"
author = "The aiovfork authors"
copyright = f"2026, {author}"  # noqa: A001  # Sphinx reads this name
release = version = installed_version("aiovfork")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
# What has changed since the last release, for changes.md.
UNRELEASED = Path(__file__).parent / "_build" / "unreleased.md"
UNRELEASED.parent.mkdir(exist_ok=True)
UNRELEASED.write_text(
    subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--date", "unreleased"],
        cwd=UNRELEASED.parent.parent.parent,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
)

exclude_patterns = ["_build", "changes/*"]
nitpicky = True
# Names of the standard library, which is not fetched: the build works offline.
nitpick_ignore_regex = [
    (r"py:.*", r"(asyncio|collections|contextlib|enum|os|pathlib|re|resource|subprocess|typing|types)\..*"),
    (r"py:exc", r"\w+Error"),
    # Aliases and variables of types, which only signatures name.
    (r"py:class", r"(aiovfork\._\w+\.)?_ProtocolT|StrOrBytesPath|Stdio|Env"),
    (r"py:class", r"aiovfork\._options\.(HasFileno|ChildOptions|StageOptions)"),
    # What three exceptions share; the types of keywords that overloads name.
    (r"py:class", r"aiovfork\._outcome\._Outcome|aiovfork\._terms\.(Output|Member)Options"),
    (r"py:.*", r"aiovfork\._(lines\._LinesOptions|pipeline\._PipelineOptions|line_reader\.LineT)"),
    # asyncio's Process, with types for its private attributes.
    (r"py:class", r"aiovfork\._compat\.AsyncioProcess"),
]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"aiovfork {release}"
html_static_path = ["_static"]
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
