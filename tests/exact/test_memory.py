"""What a loop frees and asks for again is kept by the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from recrl.training.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        held = [np.zeros(1 << 18) + 1.0 for _ in range(30)]  # 60 MB in blocks of 2 MB, as an update of CQL holds
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="SKIPPED: glibc alone has the switch")
def test_an_update_finds_the_memory_of_the_last_one():
    """Pages that the system has to clear again: thousands where memory is given back, next to none where it is kept."""
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True).stdout)
        for mode in ("default", "keep")
    )
    assert kept < given_back / 20
