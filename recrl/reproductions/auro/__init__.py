"""AURO's study: retention under drift in the calibrated simulator and in the paper's own environment, beside baselines and ablations.

Users share one calendar: each day those who are back live through their sessions, the churned are replaced the next day. Parts ``held``
(N2), ``weekly`` (N3), ``regimes`` (N4), ``none`` and ``published``, AURO's own environment. A learner acts, and learns on the way, after
days of random actions; after the last day its policy, frozen and without exploring, lives with fresh users, for each seed others, the same
ones with the same luck for every method.

Every learner has the same networks, rates and updates and otherwise its stated defaults; none is tuned. CEM searches 60 candidates before
the first day.

    oracle       each slate greedy in the true expected satisfaction of the day; no proved bound over whole lives
    cem          static weights, searched on sessions without drift, with about as many requests as a learner sees
    td3, rlur    rlur: immediate critic too (click, long view, like, hate) and novelty
    supervised   static weights, trained on feedback from before the first day: ridge regression on the platform's predictions
    true worth   static weights that know what satisfaction is made of, as the oracle does and no learner can
    oac, escp    no abstraction: OAC's optimistic shift; context by the determinant loss with the period of the drift as
                 environment
    no phi, no loss, no guard, no exploration    AURO without the abstraction; with it trained by the critics alone; the farthest of the
                 optimistic candidates, whatever the mean value; TD3's Gaussian around the actor instead
"""

from recrl.reproductions.auro.learners import Budget
from recrl.reproductions.auro.study import AUROStudy, study

__all__ = ["AUROStudy", "Budget", "study"]
