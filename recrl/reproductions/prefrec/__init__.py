"""PrefRec in its reference environment, the retention simulator and on KuaiRand rows: baselines, controls, ablations, rewards."""

from recrl.reproductions.prefrec.plan import study

__all__ = ["study"]
