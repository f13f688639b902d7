"""AURO's study: retention under drift in the calibrated simulator and in the paper's own environment, beside baselines and ablations.

Users share one calendar: each day those who are back live through their sessions, the churned are replaced the next day. Parts ``held``
(N2), ``weekly`` (N3), ``regimes`` (N4), ``none`` and ``published``, AURO's own environment. A learner acts, and learns on the way, after
days of random actions; after the last day its policy, frozen and without exploring, lives with fresh users, the same ones with the same
luck for every method.

    oracle       each slate greedy in the true expected satisfaction of the day; no proved bound over whole lives
    cem          static weights, searched on sessions without drift, with about as many requests as a learner sees
    td3, rlur    rlur: immediate critic too (click, long view, like, hate) and novelty
    predicted    static weights, the stated worth of each behaviour: the supervised ranker
    oac, escp    no abstraction: OAC's optimistic shift; context by the determinant loss with the calendar week as environment
    no phi, no loss, no guard, no exploration    AURO without the abstraction; with it trained by the critics alone; the farthest of the
                 optimistic candidates, whatever the mean value; with Gaussian noise alone
"""

from recrl.reproductions.auro.learners import Budget
from recrl.reproductions.auro.study import AUROStudy, study

__all__ = ["AUROStudy", "Budget", "study"]
