"""TSCAC's study: on simulated users, where the truth is known, and on KuaiRand rows, judged off-policy."""

from recrl.reproductions.tscac.study import PRIMARY, Budget, TSCACStudy, study

__all__ = ["PRIMARY", "Budget", "TSCACStudy", "study"]
