"""Contract suites: one for each contract of :mod:`recrl.core.contracts`, run over every registered implementation.

Call them on your own policy, learner, world, estimator or store; each raises :class:`recrl.core.errors.ContractError` that names the broken
clause, and returns nothing.
"""

from recrl.checks.evaluation import check_estimator, check_store, check_world
from recrl.checks.learning import check_algorithm, check_policy, check_sampler
from recrl.checks.waiting import check_no_sync

__all__ = ["check_algorithm", "check_estimator", "check_no_sync", "check_policy", "check_sampler", "check_store", "check_world"]
