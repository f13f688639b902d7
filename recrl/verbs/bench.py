"""``recrl bench``: the benchmarks of the checkout."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import recrl
from recrl.console import Talk
from recrl.core.errors import ConfigError

BENCHMARKS = Path(recrl.__path__[0]).parent / "benchmarks"
"""Where a checkout has them."""

BUSY = 1.2
"""A load average beyond which somebody else computes too."""


@dataclass(frozen=True)
class BenchOptions:
    """A benchmark, or the list of them.

    Attributes:
        name: a script of `benchmarks/`; none lists them. Its own options stand after `--`: `recrl bench NAME -- --help`.
        arguments: what stands after `--`.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    arguments: Annotated[tuple[str, ...], tyro.conf.Suppress] = ()


def bench(options: BenchOptions, talk: Talk) -> int:
    """List the benchmarks, or run one; its exit status is this one's."""
    scripts = find_benchmarks(BENCHMARKS)
    if not options.name:
        about = {name: _first_line(script) for name, script in scripts.items()}
        talk.table("Benchmarks", ["name", "what it measures"], [[name, line] for name, line in about.items()])
        talk.result({"benchmarks": [{"name": name, "about": line} for name, line in about.items()]})
        return 0
    script = scripts.get(options.name.removesuffix(".py").replace("-", "_"))
    if script is None:
        raise ConfigError(f"no benchmark {options.name!r}", where="recrl bench", mend=f"choose one of {', '.join(scripts)}")
    load = os.getloadavg()[0]
    if load > BUSY:
        talk.warn(f"the load average is {load:.1f}: others compute here too, and times will be off")
    return _run(script, options.arguments, talk)


def find_benchmarks(folder: Path) -> dict[str, Path]:
    """Benchmarks by name.

    **Errors**: :class:`ConfigError` where there is no checkout.
    """
    found = {script.stem: script for script in sorted(folder.glob("[!_]*.py"))}
    if not found:
        raise ConfigError(
            "the benchmarks are part of the checkout, not of the installed package",
            where=str(folder),
            mend="clone the repository, `pip install -e .` there, and run `recrl bench` again",
        )
    return found


def _run(script: Path, arguments: tuple[str, ...], talk: Talk) -> int:
    command = [sys.executable, str(script), *arguments, *(["--json"] if talk.as_json else [])]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE if talk.as_json else None, text=True) as process:
        for line in process.stdout or ():
            if last:
                print(last, file=sys.stderr)
            last = line.rstrip("\n")
    if talk.as_json:
        try:
            found: Any = json.loads(last)
        except json.JSONDecodeError:
            found = {"output": last}
        talk.result(found if isinstance(found, dict) else {"result": found})
    return process.returncode


def _first_line(script: Path) -> str:
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").split("\n")[0]
