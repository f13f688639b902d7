"""What every test shares: one thread a process, repeatable hypothesis, and markers that skip loudly."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

# a shell that starts pytest in the background has it ignore Ctrl-C, and so would every process that a test starts and stops
with contextlib.suppress(ValueError):
    signal.signal(signal.SIGINT, signal.default_int_handler)

# test modules are imported after this, and with them NumPy, polars or torch
for _variable, _count in {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2"}.items():
    os.environ.setdefault(_variable, _count)

REPOSITORY = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def find_kuairand() -> Path | None:
    """The KuaiRand-Pure rows: ``$RECRL_KUAIRAND_ROOT``, else the shared folder beside the checkout."""
    named = os.environ.get("RECRL_KUAIRAND_ROOT")
    root = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "KuaiRand-Pure"
    return root if root.is_dir() else None


def find_chromium() -> str | None:
    """Path of a Chromium to drive: ``$RECRL_CHROMIUM``, else the first on the path."""
    named = os.environ.get("RECRL_CHROMIUM")
    return named or next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.fixture(scope="session")
def kuairand_root() -> Path:
    """Folder of the KuaiRand-Pure rows; the test is skipped where they are absent."""
    root = find_kuairand()
    if root is None:
        pytest.skip("SKIPPED: the KuaiRand-Pure rows are absent; set RECRL_KUAIRAND_ROOT to their folder")
    return root


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium; skipped where absent, a failure where ``RECRL_REQUIRE_BROWSER=1``."""
    path = find_chromium()
    if path is None:
        message = "Chromium is absent; `apt-get install chromium`, or set RECRL_CHROMIUM to its path"
        if os.environ.get("RECRL_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(f"SKIPPED: {message}")
    return path


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Two threads on two busy cores are several times slower than one."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in capitals which real-data or browser tests did not run."""
    loud = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", []) if "SKIPPED: " in str(report.longrepr[2])}
    for reason in sorted(loud):
        terminalreporter.write_line(f"!!! {reason.removeprefix('Skipped: ')}", yellow=True, bold=True)
