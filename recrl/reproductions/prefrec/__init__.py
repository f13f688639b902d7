"""PrefRec in its reference environment and in the retention simulator: baselines, controls, ablations, and what its rewards know."""

from recrl.reproductions.prefrec.plan import study

__all__ = ["study"]
