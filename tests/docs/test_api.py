"""The API reference: every package has its section, and the examples of docstrings are shown as code."""

from __future__ import annotations

import importlib.util
import re
import runpy

import pytest

from tests.conftest import REPOSITORY

NO_REFERENCE = {
    "recrl": "empty",
    "recrl.verbs": "options of the command line: docs/cli.md",
    "recrl.pipeline": "stages behind the verbs",
    "recrl.algorithms.parity": "quirks of reference code, for comparisons",
    "dashboards.figures": "of the pages",
    "dashboards.pages": "of the app",
    "recrl_datasets.building": "behind prepare()",
}


def packages() -> list[str]:
    listed = re.search(r"^packages = \[(.*?)\]", (REPOSITORY / "pyproject.toml").read_text(), flags=re.MULTILINE | re.DOTALL)
    assert listed
    return re.findall(r'"([\w.]+)"', listed[1])


def test_every_package_is_in_the_reference_and_every_entry_exists() -> None:
    entries = re.findall(r"^::: ([\w.]+)$", (REPOSITORY / "docs" / "api.md").read_text(), flags=re.MULTILINE)
    assert len(entries) == len(set(entries))
    assert [entry for entry in entries if importlib.util.find_spec(entry) is None] == []
    # a reproduction's own package is told by the study it makes
    missing = [name for name in packages() if not name.startswith("recrl.reproductions.") and name not in NO_REFERENCE]
    assert [name for name in missing if not any(entry.rpartition(".")[0] == name for entry in entries)] == []


def test_examples_of_docstrings_are_code() -> None:
    markdown = pytest.importorskip("markdown")
    hook = runpy.run_path(str(REPOSITORY / "docs" / "doctests.py"))
    page = markdown.markdown("Text.\n>>> f(2)\n[4, 5]\n\nMore.", extensions=[hook["DoctestExtension"](), "fenced_code"])
    assert page == '<p>Text.</p>\n<pre><code class="language-pycon">&gt;&gt;&gt; f(2)\n[4, 5]\n</code></pre>\n<p>More.</p>'
