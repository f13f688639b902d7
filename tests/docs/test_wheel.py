"""The wheel by itself, in an empty environment, without RecBole: it holds every package, and `recrl doctor` says what is missing."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

OURS = ("recrl", "recbole", "simulators", "offline_eval", "dashboards", "__editable__")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel and our dependencies (linked, not downloaded), but no RecBole."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("recrl", "simulators", "offline_eval", "dashboards", "datasets"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(source)], check=True)
    (wheel,) = folder.glob("recrl-*.whl")

    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    for held in site.getsitepackages():
        for entry in Path(held).iterdir():
            target = packages / entry.name
            if not entry.name.startswith(OURS) and not target.exists() and entry.suffix != ".pth":
                target.symlink_to(entry)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    return folder / "venv"


def test_every_package_comes_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    script = (
        "import recrl.cli, simulators, offline_eval, dashboards.app, recrl_datasets, importlib.util, json\n"
        "modules = (recrl.cli, simulators, offline_eval, dashboards.app, recrl_datasets)\n"
        "print(json.dumps([[m.__file__ for m in modules], importlib.util.find_spec('recbole') is None]))"
    )
    done = subprocess.run([environment / "bin" / "python", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    places, without_recbole = json.loads(done.stdout.splitlines()[-1])
    assert all(Path(place).is_relative_to(environment) for place in places), places
    assert without_recbole
    assert (Path(places[3]).parent / "pages" / "__main__.py").is_file()


def test_doctor_runs_and_says_how_to_get_recbole(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run([environment / "bin" / "recrl", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["versions"]["recbole"] == "absent"
    assert "recbole==1.2.1" in json.dumps(result["checks"])
