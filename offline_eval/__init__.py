"""Off-policy evaluation: what a policy would have earned, from rows that another policy logged, with user-clustered intervals."""

from offline_eval.bandit import DR, IPS, NCIS, REGISTRY, SNDR, SNIPS, ClippedIPS, Mean
from offline_eval.contributions import Interval, difference, interval, standard_error, value
from offline_eval.diagnostics import Diagnostics, Thresholds, diagnose
from offline_eval.evaluate import Estimate, Evaluation, combine, estimate, evaluate, ncis, snips

__all__ = [
    "DR",
    "IPS",
    "NCIS",
    "REGISTRY",
    "SNDR",
    "SNIPS",
    "ClippedIPS",
    "Diagnostics",
    "Estimate",
    "Evaluation",
    "Interval",
    "Mean",
    "Thresholds",
    "combine",
    "diagnose",
    "difference",
    "estimate",
    "evaluate",
    "interval",
    "ncis",
    "snips",
    "standard_error",
    "value",
]
