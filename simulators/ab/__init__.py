"""A/B experiments on simulated users, and their statistics (``docs/ab.md``)."""

from simulators.ab.design import METRICS, Design, MetricSpec
from simulators.ab.experiment import run_experiment
from simulators.ab.results import ExperimentResult, UserMetrics

__all__ = ["METRICS", "Design", "ExperimentResult", "MetricSpec", "UserMetrics", "run_experiment"]
