"""The tutorials run from top to bottom, in quick form, in one folder: later ones use what the first one made.

Above a block, ``<!-- quick: ... -->`` makes it small: options put behind each command, or the line that a Python block's assignment
becomes. ``<!-- no-run: reason -->`` leaves a block out.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

from recrl.cli import main
from tests.docs.test_snippets import TUTORIALS, Block, blocks, command_lines, name

ORDER = ("own_log", "estimators", "tscac", "auro", "preferences")
ANSWERS = "1\n2\n=\ns\nq\n"
"""What somebody types who labels pairs."""


def run_python(block: Block, page: Path) -> None:
    code = block.code
    if block.quick:
        assigned = block.quick.split(" = ")[0]
        code, count = re.subn(rf"^{assigned} = .*$", block.quick, code, flags=re.MULTILINE)
        assert count == 1, f"{name(page)}: {block.quick!r} stands for no line"
    module = ModuleType(f"tutorial_{page.stem}_{block.line}")
    exec(compile("\n" * block.line + code, name(page), "exec"), module.__dict__)


def run_commands(block: Block, page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in command_lines(block.code):
        words = shlex.split(f"{line} {block.quick}", comments=True)
        assert words[0] == "recrl", f"{name(page)}: {line!r} is run by nothing"
        status = main(words[1:])
        said = capsys.readouterr()
        assert status == 0, f"{name(page)}: {line}\n{said.err}"


def test_every_tutorial_runs_and_stands_in_the_navigation() -> None:
    assert {page.stem for page in TUTORIALS.glob("*.md")} == {*ORDER, "decide"}
    navigation = (TUTORIALS.parents[1] / "mkdocs.yml").read_text()
    assert [stem for stem in re.findall(r"tutorials/(\w+)\.md", navigation) if stem != "decide"] == list(ORDER)


def test_tutorials_run_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for stem in ORDER:
        page = TUTORIALS / f"{stem}.md"
        for block in blocks(page, "python", "bash"):
            if not block.run:
                continue
            monkeypatch.setattr(sys, "stdin", io.StringIO(ANSWERS))
            if block.language == "python":
                run_python(block, page)
            else:
                run_commands(block, page, capsys)


def test_quick_forms_are_found_above_their_blocks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- quick: --steps 5 -->\n\n```bash\nrecrl train bc \\\n  --seed 1\n```\n\n```bash\nrecrl doctor\n```\n")
    assert [block.quick for block in blocks(page, "bash")] == ["--steps 5", ""]
    assert command_lines(blocks(page, "bash")[0].code) == ["recrl train bc    --seed 1"]
