"""The learners, one file a method; :data:`REGISTRY` names them."""

from __future__ import annotations

from recrl.algorithms.auro import AURO
from recrl.algorithms.awac import AWAC
from recrl.algorithms.bc import BC
from recrl.algorithms.bcq import BCQ
from recrl.algorithms.cql import CQL
from recrl.algorithms.ddpg import DDPG
from recrl.algorithms.escp import ESCP
from recrl.algorithms.iql import IQL
from recrl.algorithms.joint_critic import JointCritic
from recrl.algorithms.oac import OAC
from recrl.algorithms.pareto import Pareto
from recrl.algorithms.prefrec import PrefRec
from recrl.algorithms.rcpo import RCPO
from recrl.algorithms.rlur import RLUR
from recrl.algorithms.sac import SAC
from recrl.algorithms.task import Learner
from recrl.algorithms.td3 import TD3
from recrl.algorithms.td3_bc import TD3BC
from recrl.algorithms.tscac import TSCAC
from recrl.algorithms.tscac_ddpg import TSCACDDPG

REGISTRY: dict[str, type[Learner]] = {
    learner.name: learner
    for learner in (
        BC,
        DDPG,
        TD3,
        TD3BC,
        SAC,
        AWAC,
        IQL,
        CQL,
        BCQ,
        TSCAC,
        TSCACDDPG,
        RCPO,
        Pareto,
        JointCritic,
        PrefRec,
        AURO,
        RLUR,
        OAC,
        ESCP,
    )
}
"""Learners by name; each is built as ``learner(learner.config_type(), task, seed)``."""
