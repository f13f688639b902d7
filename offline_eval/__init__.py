"""Off-policy evaluation: what a policy would have earned, from rows that another policy logged, with user-clustered intervals."""

from offline_eval.bandit import IPS, NCIS, SNIPS, ClippedIPS, Mean, Replay, SubGaussianIPS, TrajectoryNCIS
from offline_eval.catalogue import DrawnTerm, category_log_prob, drawn, streamed
from offline_eval.censoring import RetentionLog
from offline_eval.contributions import between_logs, difference, standard_error, value
from offline_eval.diagnostics import Diagnostics, Thresholds, diagnose
from offline_eval.direct import cross_fit
from offline_eval.doubly_robust import DM, DR, SNDR, ShrunkDR, SubGaussianDR, SwitchDR
from offline_eval.evaluate import Estimate, Evaluation, combine, estimate, evaluate, evaluate_retention, ncis, snips
from offline_eval.fitted_q import fitted_q
from offline_eval.hazards import cross_fit_hazards
from offline_eval.intervals import Interval, interval, lower_bound
from offline_eval.overlap import by_cohort, overlap_holes, reliability
from offline_eval.propensities import Propensities, cross_fit_propensities
from offline_eval.registry import REGISTRY, needs, resolve
from offline_eval.retention import IPCW, KaplanMeier, NaiveRetention, SurvivalDR, retention_curve
from offline_eval.selection import (
    Choice,
    cross_validated,
    importance_fitted,
    rank_correlation,
    regret_at,
    sharpe_ratio_at,
    slope,
    violation_at,
)
from offline_eval.sequential import PDIS, TIS, WIS, WPDIS, CappedWIS, MeanReturn, SequentialDM, SequentialDR, SequentialWDR
from offline_eval.slates import IndependentIPS, PseudoInverse
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
    "Choice",
    "ClippedIPS",
    "Diagnostics",
    "DrawnTerm",
    "Estimate",
    "Evaluation",
    "IndependentIPS",
    "Interval",
    "KaplanMeier",
    "Mean",
    "MeanReturn",
    "NaiveRetention",
    "Propensities",
    "PseudoInverse",
    "Replay",
    "RetentionLog",
    "SequentialDM",
    "SequentialDR",
    "SequentialWDR",
    "ShrunkDR",
    "SubGaussianDR",
    "SubGaussianIPS",
    "SurvivalDR",
    "SwitchDR",
    "Thresholds",
    "TrajectoryNCIS",
    "between_logs",
    "by_cohort",
    "category_log_prob",
    "combine",
    "cross_fit",
    "cross_fit_hazards",
    "cross_fit_propensities",
    "cross_validated",
    "diagnose",
    "difference",
    "drawn",
    "estimate",
    "evaluate",
    "evaluate_retention",
    "fitted_q",
    "importance_fitted",
    "interval",
    "lower_bound",
    "ncis",
    "needs",
    "overlap_holes",
    "rank_correlation",
    "regret_at",
    "reliability",
    "resolve",
    "retention_curve",
    "sharpe_ratio_at",
    "slope",
    "snips",
    "standard_error",
    "step_discounts",
    "streamed",
    "value",
    "violation_at",
]
