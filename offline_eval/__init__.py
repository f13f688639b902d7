"""Off-policy evaluation: what a policy would have earned, from rows that another policy logged, with user-clustered intervals."""

from offline_eval.bandit import IPS, NCIS, SNIPS, ClippedIPS, Mean, Replay, TrajectoryNCIS
from offline_eval.censoring import RetentionLog
from offline_eval.contributions import difference, standard_error, value
from offline_eval.diagnostics import Diagnostics, Thresholds, diagnose
from offline_eval.direct import cross_fit
from offline_eval.doubly_robust import DM, DR, SNDR, SwitchDR
from offline_eval.evaluate import Estimate, Evaluation, combine, estimate, evaluate, ncis, snips
from offline_eval.fitted_q import fitted_q
from offline_eval.hazards import cross_fit_hazards
from offline_eval.intervals import Interval, interval, lower_bound
from offline_eval.registry import REGISTRY, needs, resolve
from offline_eval.retention import IPCW, KaplanMeier, NaiveRetention, SurvivalDR, retention_curve
from offline_eval.sequential import PDIS, TIS, WIS, WPDIS, CappedWIS, MeanReturn, SequentialDM, SequentialDR, SequentialWDR
from offline_eval.trajectories import step_discounts

__all__ = [
    "DM",
    "DR",
    "IPCW",
    "IPS",
    "NCIS",
    "PDIS",
    "REGISTRY",
    "SNDR",
    "SNIPS",
    "TIS",
    "WIS",
    "WPDIS",
    "CappedWIS",
    "ClippedIPS",
    "Diagnostics",
    "Estimate",
    "Evaluation",
    "Interval",
    "KaplanMeier",
    "Mean",
    "MeanReturn",
    "NaiveRetention",
    "Replay",
    "RetentionLog",
    "SequentialDM",
    "SequentialDR",
    "SequentialWDR",
    "SurvivalDR",
    "SwitchDR",
    "Thresholds",
    "TrajectoryNCIS",
    "combine",
    "cross_fit",
    "cross_fit_hazards",
    "diagnose",
    "difference",
    "estimate",
    "evaluate",
    "fitted_q",
    "interval",
    "lower_bound",
    "ncis",
    "needs",
    "resolve",
    "retention_curve",
    "snips",
    "standard_error",
    "step_discounts",
    "value",
]
