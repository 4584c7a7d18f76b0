"""The pages of the documentation, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    page
    for folder, pattern in [
        (ROOT, "*.md"),
        (ROOT / "docs", "**/*.md"),
        (ROOT / "csrc", "*.md"),
        (ROOT / "benchmarks", "*.md"),
    ]
    for page in folder.glob(pattern)
    if "_build" not in page.parts and page.parent != ROOT / "docs" / "changes"
)
MARKDOWN: Final = MarkdownIt("commonmark").enable("table")


def tokens(page: Path) -> Iterator[Token]:
    """Return every token of a page, those within a line of text included."""
    for token in MARKDOWN.parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or []


def console_blocks(page: Path) -> list[tuple[str, str]]:
    """Return each command of a page's ```console blocks, without its prompt, and the output that follows it."""
    commands: list[tuple[str, str]] = []
    for token in tokens(page):
        if token.type == "fence" and token.info == "console":
            for line in token.content.splitlines(keepends=True):
                if line.startswith("$ "):
                    commands.append((line[2:].strip(), ""))
                else:
                    command, output = commands.pop()
                    commands.append((command, output + line))
    return commands
