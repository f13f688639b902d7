"""Memory that a training loop frees and asks for again at once stays with the process."""

from __future__ import annotations

import ctypes
import sys

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""Options of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Have the C library keep up to 512 MiB of what is freed; returns whether it does. It has this switch on Linux (glibc) alone.

    An update frees its activations at its end and the next one asks for as many. Given back to the system between, each page of them
    is cleared anew: a tenth of an update of TD3, a fifth of one that values many actions. It holds for the whole process, and changes
    no result.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # blocks of up to 32 MiB, the most that every version takes, come from memory that can be kept
    return tune is not None and bool(tune(_MMAP_THRESHOLD, 32 << 20)) and bool(tune(_TRIM_THRESHOLD, 512 << 20))
