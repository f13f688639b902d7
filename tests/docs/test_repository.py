"""The house keeps its shape: layout, import rules, file sizes, what never stands in a file."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PACKAGES = ("recrl", "simulators", "offline_eval", "dashboards", "recrl_datasets")
TOP_LEVEL = {
    *(".ci", ".gitignore", ".pre-commit-config.yaml"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "constraints.txt", "mkdocs.yml", "pyproject.toml"),
    *("benchmarks", "dashboards", "datasets", "docs", "offline_eval", "recrl", "simulators", "tests"),
}
DATA = {".csv", ".parquet", ".inter", ".npz", ".npy", ".pkl", ".pt", ".safetensors", ".gz", ".zip"}
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".cfg", ".sh", ""}


def files() -> list[Path]:
    """Every file that is, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return sorted({REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()})


def texts() -> list[tuple[str, str]]:
    """Name and text of every text file but this one."""
    paths = [path for path in files() if path.suffix in TEXT and path != Path(__file__)]
    return [(str(path.relative_to(REPOSITORY)), path.read_text(encoding="utf-8")) for path in paths]


def test_the_top_level_is_the_house() -> None:
    assert {path.relative_to(REPOSITORY).parts[0] for path in files()} == TOP_LEVEL


def test_no_file_is_too_long_to_read() -> None:
    long = {name: text.count("\n") for name, text in texts() if text.count("\n") > 600}
    assert not long


def test_no_data_and_nothing_large_is_committed() -> None:
    assert not [str(path) for path in files() if path.stat().st_size > 600_000]
    assert not [str(path) for path in files() if path.suffix in DATA]


@pytest.mark.parametrize(
    ("what", "pattern", "allowed"),
    [
        ("a path of one machine", r"(?<![\w.}~])/(?:work|root|home|Users|opt)/\w", ()),
        ("the folder beside the checkout", r"\.\./shared", ("tests/", ".ci/")),
        ("a package registry's host", r"pypi\.org|pythonhosted|pytorch\.org/whl|--(?:extra-)?index-url|--find-links", ()),
        ("who wrote it", r"(?i)\b(?:claude|anthropic|chatgpt|openai codex|copilot|ai assistant|language model session)\b", ()),
        ("pickle or eval", r"(?<![.\w])(?:eval\(|import pickle|pickle\.(?:load|dump))", ("tests/", "docs/")),
        ("a relative import", r"(?m)^\s*from \.+\w* import", ()),
        ("a global seed", r"(?:np|numpy)\.random\.seed\(|torch\.manual_seed\(|(?<![\w.])random\.seed\(", ("tests/",)),
        ("a to-do", r"\b(?:TODO|FIXME|XXX)\b", ()),
    ],
)
def test_some_things_never_stand_in_a_file(what: str, pattern: str, allowed: tuple[str, ...]) -> None:
    found = [f"{name}: {match[0]}" for name, text in texts() if not name.startswith(allowed) for match in re.finditer(pattern, text)]
    assert not found, f"{what}: {found}"


def test_every_package_on_disk_is_in_the_wheel() -> None:
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    roots = {name: REPOSITORY / ("datasets/recrl_datasets" if name == "recrl_datasets" else name) for name in PACKAGES}
    on_disk = {".".join((name, *path.parent.relative_to(root).parts)) for name, root in roots.items() for path in root.rglob("__init__.py")}
    assert listed == on_disk


def test_import_rules_hold() -> None:
    from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

    assert lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_another_package_named_datasets_stays_importable(tmp_path: Path) -> None:
    assert not (REPOSITORY / "datasets" / "__init__.py").exists()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "__init__.py").write_text("KIND = 'the other one'")
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "datasets"), str(tmp_path)])
    assert python("import datasets, recrl_datasets; print(datasets.KIND)", PYTHONPATH=path) == "the other one"


def test_importing_core_runs_nothing_else() -> None:
    heavy = "{'torch', 'polars', 'streamlit', 'lightgbm'}"
    assert python(f"import recrl.core.runs, recrl.core.contracts, sys; print(sorted({heavy} & sys.modules.keys()))") == "[]"


def python(script: str, **environment: str) -> str:
    """What a fresh Python prints."""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_constraints_pin_every_dependency_and_nothing_else() -> None:
    lines = [line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines), "only name==version; no hosts, no paths"
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    project = PYPROJECT["project"]
    asked = [*project["dependencies"], *(name for extra in ("recbole", "dev") for name in project["optional-dependencies"][extra])]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower() for requirement in asked}
    assert names <= pinned, names - pinned


def test_make_has_its_targets_and_the_hooks_run_the_same_checks() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    rules = dict(re.findall(r"^([a-z]+): setup\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE))
    assert rules.keys() == {"demo", "test", "check", "bench", "peers", "dashboard", "docs"}
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = {line.strip().removesuffix(" .").replace("$(BIN)", ".venv/bin") for line in rules["check"].splitlines()}
    assert {hook["entry"] for hook in hooks} == checks


def test_ci_runs_every_check_and_is_executable() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert all(f"make {target}" in text for target in ("setup", "check", "docs", "test"))
    assert "RECRL_REQUIRE_BROWSER=1" in text
