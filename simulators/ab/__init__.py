"""A/B experiments on simulated users, and their statistics (``docs/ab.md``)."""

from simulators.ab.comparison import Comparison
from simulators.ab.design import METRICS, Design, MetricSpec
from simulators.ab.experiment import Experiment, run_experiment
from simulators.ab.facts import Facts, Groups
from simulators.ab.results import ExperimentResult
from simulators.ab.users import UserMetrics

__all__ = [
    "METRICS",
    "Comparison",
    "Design",
    "Experiment",
    "ExperimentResult",
    "Facts",
    "Groups",
    "MetricSpec",
    "UserMetrics",
    "run_experiment",
]
