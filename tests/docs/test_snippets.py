"""What the README and the pages show runs: Python blocks are executed, commands are known to the CLI.

A Python block after ``<!-- no-run: reason -->`` is compiled, not run. Tutorials, whose blocks build on each other, are run by
``test_tutorials.py``.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from recrl.cli import VERBS, main
from tests.conftest import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
TUTORIALS = REPOSITORY / "docs" / "tutorials"
_FENCE = re.compile(r"^(?P<indent>[ \t]*)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ \t]*$", re.MULTILINE | re.DOTALL)
_GLOBAL = {"--json", "--debug", "--help"}


@dataclass(frozen=True)
class Block:
    """One fenced block: its code with the line it starts on, whether it is run, and what makes it quick in a tutorial."""

    language: str
    code: str
    line: int
    run: bool
    quick: str = ""


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's fenced blocks of ``languages``, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip().rsplit("\n", 1)[-1].strip()
        line = text.count("\n", 0, match.start()) + 1
        quick = before.removeprefix("<!-- quick:").removesuffix("-->").strip() if before.startswith("<!-- quick:") else ""
        found.append(Block(match["language"], textwrap.dedent(match["code"]), line, not before.startswith("<!-- no-run:"), quick))
    return [block for block in found if block.language in languages]


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python", "py") and page.parent != TUTORIALS], ids=name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # dataclasses look their module up by name
    module = ModuleType(f"snippets_of_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for block in blocks(page, "python", "py"):
        # blank lines before it give tracebacks the page's own line numbers
        code = compile("\n" * block.line + block.code, name(page), "exec")
        if block.run:
            exec(code, module.__dict__)


def command_lines(code: str) -> list[str]:
    """Lines of a shell block, continued ones joined."""
    return [line.strip().removeprefix("$ ") for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def commands(page: Path) -> list[str]:
    """Command lines of the page's shell blocks."""
    return [line for block in blocks(page, "bash", "sh", "shell", "console") for line in command_lines(block.code)]


@pytest.mark.parametrize("page", [page for page in PAGES if any(line.startswith("recrl ") for line in commands(page))], ids=name)
def test_commands_are_known_to_the_cli(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in commands(page):
        if not line.startswith("recrl "):
            continue
        words = shlex.split(re.split(r"\s[|>&;]", line)[0], comments=True)[1:]
        # what stands behind `--` belongs to another program
        words = words[: words.index("--")] if "--" in words else words
        verb = next((verb for verb in (" ".join(words[:2]), words[0]) if verb in VERBS), None)
        assert verb, f"{name(page)}: no verb in {line!r}"
        assert main([*verb.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        for word in words:
            option = word.split("=")[0]
            if option.startswith("--") and option not in _GLOBAL:
                known = re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown)
                assert known, f"{name(page)}: `recrl {verb}` has no {option} ({line!r})"


@pytest.mark.parametrize("page", [page for page in PAGES if any(line.startswith("make ") for line in commands(page))], ids=name)
def test_make_targets_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
    for line in commands(page):
        if line.startswith("make "):
            words = [word for word in shlex.split(line, comments=True)[1:] if "=" not in word and not word.startswith("-")]
            assert set(words) <= set(targets), f"{name(page)}: {line!r}"


def test_blocks_are_found_where_they_stand(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = ["a", "", "```python", "x = 1", "```", "", "<!-- no-run: slow -->", "", "```python", "x = 2", "```", ""]
    lines += ["- item", "", "  ```python", "  x = 3", "  ```", "```bash", "recrl doctor", "```", ""]
    page.write_text("\n".join(lines))
    found = [(block.code, block.line, block.run) for block in blocks(page, "python")]
    assert found == [("x = 1\n", 3, True), ("x = 2\n", 9, False), ("x = 3\n", 15, True)]
    assert commands(page) == ["recrl doctor"]
