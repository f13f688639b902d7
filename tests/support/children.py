"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(true: Callable[[], Any], child: subprocess.Popen[Any] | None = None, seconds: float = 240.0) -> None:
    """Return as soon as ``true()`` holds; the test fails where ``child`` has ended before, or it takes longer than any machine needs."""
    deadline = time.monotonic() + seconds
    while not true():
        if child is not None and child.poll() is not None:
            said = child.stderr.read() if child.stderr is not None else ""
            raise AssertionError(f"the process ended first, with {child.returncode}: {said}")
        assert time.monotonic() < deadline, f"still not so after {seconds:.0f} seconds"
        time.sleep(0.01)
