"""A hook of MkDocs: the examples of docstrings (``>>>``) are shown as code, where Markdown alone would see quotations."""

from __future__ import annotations

from typing import Any

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor


class Doctests(Preprocessor):
    """Puts a fence around each run of lines from ``>>>`` to the next empty one."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines with fences."""
        out: list[str] = []
        inside = False
        for line in [*lines, ""]:
            if not inside and line.startswith(">>> "):
                out += ["", "```pycon"]
                inside = True
            elif inside and not line.strip():
                out.append("```")
                inside = False
            out.append(line)
        return out


class DoctestExtension(Extension):
    """Runs before fences are read."""

    def extendMarkdown(self, md: Markdown) -> None:
        """Register the preprocessor."""
        md.preprocessors.register(Doctests(md), "doctests", 40)


def on_config(config: Any) -> Any:
    """Add the extension to all pages."""
    config.markdown_extensions.append(DoctestExtension())
    return config
