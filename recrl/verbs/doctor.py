"""``recrl doctor``: is this machine ready, and if not, what mends it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from recrl.console import Talk
from recrl.core.errors import RecrlError
from recrl.core.runs import package_versions

_OURS = ("recrl", "simulators", "offline_eval", "dashboards", "recrl_datasets")


@dataclass(frozen=True)
class DoctorOptions:
    """Where to look.

    Attributes:
        stores: where prepared stores live.
        runs: where runs live.
        root: folder of KuaiRand's official files, to check it.
    """

    stores: Path = Path("stores")
    runs: Path = Path("runs")
    root: Path | None = None


@dataclass(frozen=True)
class Check:
    """One finding: what, whether it is fine, what was found, and the mend where it is not."""

    name: str
    ok: bool
    found: str
    mend: str = ""
    needed: bool = True


def doctor(options: DoctorOptions, talk: Talk) -> int:
    """Print every check; exit status 2 when something needed is missing."""
    checks = [*_python(), *_packages(), _device(), *_names(), *_data(options), *_folders(options), _browser()]
    talk.table(
        "recrl doctor",
        ["", "check", "found"],
        [["ok" if c.ok else ("MISSING" if c.needed else "optional"), c.name, c.found] for c in checks],
    )
    for check in checks:
        if not check.ok:
            talk.say(f"{check.name}: {check.found}\n  mend: {check.mend}")
    healthy = all(c.ok or not c.needed for c in checks)
    talk.say("everything needed is there" if healthy else "something needed is missing, see above")
    talk.result({"ok": healthy, "versions": package_versions(), "checks": [vars(c) for c in checks]})
    return 0 if healthy else 2


def _python() -> list[Check]:
    version = platform.python_version()
    return [
        Check(
            "Python 3.11 to 3.13",
            (3, 11) <= sys.version_info[:2] <= (3, 13),
            version,
            "install Python 3.11, 3.12 or 3.13, remove .venv, run make setup",
        )
    ]


def _packages() -> list[Check]:
    found = []
    for name, version in package_versions().items():
        if name == "python":
            continue
        optional = name == "recbole"
        mend = (
            "pip install 'recrl[recbole]' && pip install --no-deps recbole==1.2.1 (ml-100k is read from its wheel)"
            if optional
            else f"pip install {name}, or make setup"
        )
        found.append(Check(f"package {name}", version != "absent", version, mend, needed=not optional))
    return found


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return Check("device", True, f"cuda: {', '.join(names)}")
    return Check("device", True, f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) a process")


def _names() -> list[Check]:
    # another installed package of the same name, or a stray folder, would shadow ours
    home = Path(importlib.import_module("recrl.core").__file__ or "").resolve().parents[2]
    checks = []
    for name in _OURS:
        file = Path(importlib.import_module(name).__file__ or "").resolve()
        ok = home in file.parents
        checks.append(
            Check(
                f"import {name}", ok, "ours" if ok else f"another one at {file}", f"uninstall the other {name!r}, or run outside its folder"
            )
        )
    return checks


def _data(options: DoctorOptions) -> list[Check]:
    import recrl_datasets as rd

    checks = [_embedded(name, package) for name, package in (("ml-100k", "RecBole"), ("open-bandit", "OBP"))]
    if options.root is not None:
        files = sorted(p.name for folder in (options.root, options.root / "data") for p in folder.glob("log_*_pure.csv*"))
        mend = "download KuaiRand-Pure from its official page and pass the folder that holds data/"
        checks.append(Check("data kuairand-pure", bool(files), ", ".join(files) or f"no log_*_pure.csv under {options.root}", mend))
    for path in sorted(options.stores.glob("*/manifest.json")):
        try:
            m = rd.open_store(path.parent).manifest
            checks.append(Check(f"store {path.parent.name}", True, f"{m.rows:,} rows, {m.users:,} users"))
        except Exception as error:  # a broken store is a finding here, whatever broke
            checks.append(
                Check(
                    f"store {path.parent.name}",
                    False,
                    str(error).splitlines()[0],
                    f"recrl data prepare {path.parent.name} --force",
                    needed=False,
                )
            )
    return checks


def _embedded(name: str, package: str) -> Check:
    """Data that travels in another package's wheel."""
    import recrl_datasets as rd

    try:
        rd.REGISTRY[name].files(None)
    except RecrlError as error:
        return Check(f"data {name}", False, error.what, error.mend, needed=False)
    return Check(f"data {name}", True, f"comes with {package}")


def _folders(options: DoctorOptions) -> list[Check]:
    checks = []
    for name, folder in (("stores", options.stores), ("runs", options.runs)):
        nearest = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.exists())
        free = shutil.disk_usage(nearest).free / 1e9
        ok = os.access(nearest, os.W_OK) and free > 1.0
        checks.append(
            Check(f"folder {name}", ok, f"{folder} ({free:.0f} GB free)", f"free some space, or choose another folder with --{name}")
        )
    return checks


def _browser() -> Check:
    path = os.environ.get("RECRL_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    return Check(
        "Chromium (browser tests)", bool(path), path or "not found", "apt-get install chromium, or set RECRL_CHROMIUM", needed=False
    )
