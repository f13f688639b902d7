"""The seven user behaviours and their one-byte encoding.

One shown item carries one byte of feedback: bit ``k`` is set when ``BEHAVIOURS[k]`` happened. Logs,
replay buffers, encoders and simulators share this order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

BEHAVIOURS = ("click", "long_view", "like", "comment", "follow", "forward", "hate")
"""Behaviours in bit order (bit 0 is ``click``)."""

POSITIVE_BEHAVIOURS = BEHAVIOURS[:-1]
"""Every behaviour but ``hate``."""


def pack(columns: Mapping[str, NDArray[np.generic]], length: int) -> NDArray[np.uint8]:
    """Pack 0/1 columns into one byte a row; behaviours that are absent stay 0.

    **Shapes**: each column ``(length,)`` -> ``(length,)`` uint8.
    """
    bits = np.zeros(length, dtype=np.uint8)
    for k, name in enumerate(BEHAVIOURS):
        if name in columns:
            bits |= (np.asarray(columns[name]) != 0).astype(np.uint8) << np.uint8(k)
    return bits


def unpack(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Unpack bytes to 0/1 floats: ``(...)`` uint8 -> ``(..., 7)`` float32."""
    shifts = np.arange(len(BEHAVIOURS), dtype=np.uint8)
    return ((np.asarray(bits)[..., None] >> shifts) & 1).astype(np.float32)
