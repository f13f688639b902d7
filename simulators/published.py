"""Published aggregates of the KuaiRand-Pure standard log, used where a log cannot tell them itself.

**Source**: Gao et al., "KuaiRand", CIKM 2022; counts as printed in the notebooks of KuaiSim (Zhao et al., NeurIPS 2023).
"""

from __future__ import annotations

from typing import Final

RATES: Final[dict[str, float]] = {
    "click": 0.4597,
    "long_view": 0.3318,
    "like": 0.01848,
    "comment": 0.00255,
    "follow": 0.00107,
    "forward": 0.00096,
    "hate": 0.00049,
}
"""Share of shown videos that met each behaviour."""

CLICK_GIVEN: Final[dict[str, float]] = {
    "long_view": 0.996,
    "like": 0.845,
    "comment": 0.972,
    "follow": 0.889,
    "forward": 0.889,
    "hate": 0.451,
}
"""P(click | behaviour). None is published for ``forward``: that of ``follow`` stands in."""

RETURN_HAZARDS: Final[tuple[float, ...]] = (0.617, 0.432, 0.362, 0.341, 0.338, 0.347, 0.358, 0.371, 0.362, 0.363)
"""P(return on day k | not before), k = 1..10, over completed gaps between calendar-day sessions."""

GAP_COUNTS: Final[tuple[int, ...]] = (
    *(236_935, 63_521, 30_238, 18_152, 11_890, 8_076, 5_428, 3_622),
    *(2_222, 1_420, 937, 582, 417, 272, 212, 71),
)
"""Completed gaps of 1..16 days behind these hazards."""
