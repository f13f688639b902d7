"""The offline half of the loop: describe a log, train on it, estimate off-policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import recrl_datasets as rd
from offline_eval import Evaluation
from recrl.core.contracts import Progress
from recrl.core.runs import RunFolder
from recrl.pipeline.estimate import estimate
from recrl.pipeline.learn import LearnConfig, learn
from recrl.pipeline.policies import BASELINES, baseline
from recrl.pipeline.setting import Setting
from recrl.policies.items import ItemPolicy

Stage = Callable[[str, float, float], Progress]
"""A reporter for the stage of this name, which spans this share of the whole run."""


def replay(
    setting: Setting,
    plans: Sequence[LearnConfig],
    run: RunFolder,
    *,
    seed: int,
    stage: Stage,
    device: str = "cpu",
    tensorboard: bool = False,
) -> tuple[dict[str, ItemPolicy], Evaluation]:
    """Write ``data_*``, train every plan, write ``estimates``; the first plan clones the shown items and stands in for the logging policy.

    Returns the baselines and the trained policies by name, and the estimates. Learners that are done are only loaded.
    """
    for name, table in rd.describe(setting.store, session_rule=setting.session_rule).tables.items():
        run.write_table(name, table)
    policies = {name: baseline(name, setting) for name in BASELINES}
    for k, plan in enumerate(plans):
        report = stage(f"train {plan.name}", 0.8 * k / len(plans), 0.8 * (k + 1) / len(plans))
        policies[plan.name] = learn(setting, plan, run, seed=seed, device=device, progress=report, tensorboard=tensorboard)
    # judged by itself the clone would have weights of exactly 1 and the log's mean: no estimate
    logging = policies[plans[0].name]
    targets = {name: policy for name, policy in policies.items() if policy is not logging}
    evaluation = estimate(setting, targets, logging, run, device=device, progress=stage("estimate", 0.8, 1.0))
    return policies, evaluation
