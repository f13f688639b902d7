"""The PrefRec study in a world: policies are tried by fresh users, and static ones are searched for."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recrl.core.torch.streams import TensorStreams
from recrl.preferences.trajectories import simulate_log
from recrl.reproductions.prefrec.bench import Bench, Logged
from recrl.reproductions.prefrec.estimates import Act, Estimates
from recrl.reproductions.prefrec.grounds import Ground, best_static, lives, means
from recrl.reproductions.prefrec.recipes import Budget


class WorldBench(Bench):
    """What the cells of a world and seed share.

    Args:
        ground: the world, its logged and its fresh users.
        seed: of users, log, teachers, networks and batches.
        budget: what a cell may spend.
        folder: where clones and learned rewards are kept.
    """

    def __init__(self, ground: Ground, seed: int, budget: Budget, folder: Path) -> None:
        self.ground = ground
        with torch.no_grad():
            log = simulate_log(ground, ground.logged, ground.act, TensorStreams(seed))
        super().__init__(Logged(log, ground.action_spec, ground.features, ground.click, ground.returns), seed, budget, folder)

    @cached_property
    def estimates(self) -> Estimates:
        """From the log itself."""
        return Estimates(self.trajectories, self.behaviour.centre)

    def judged(self, act: Act) -> dict[str, Any]:
        """What a policy reaches (``depth``, ``gap_days``, ``day1``, ``click_rate``), and what an estimator says of it (``ncis_depth``,
        ``ncis_gap_days``, ``ess``).
        """
        return self.online(act) | self.estimates.of(act, self.noise)

    def told(self, learner: str) -> dict[str, Any]:
        """What the best action reaches, which the reference environment tells; or the best static one, found by CEM in as many requests as
        the log holds, and ``requests``.
        """
        ground = self.ground
        if learner == "best":
            assert ground.best is not None
            return self._reached(ground.best)
        static, requests = best_static(ground, ground.logged, self._value, len(self.rows), self.seed)
        return self.judged(lambda seen: static.expand(len(seen), -1)) | {"requests": float(requests)}

    def _value(self, sums: Tensor) -> Tensor:
        """Worth of the mean session, (C, 6) -> (C,)."""
        found = means(sums)
        value: Tensor = self.worth(found["depth"], found["gap_days"])
        return value

    def early(self, act: Act) -> float:
        """Depth of 100 fresh users."""
        return float(self.online(act, 100)["depth"])

    def online(self, act: Act, users: int | None = None) -> dict[str, Any]:
        """What fresh users do with a policy."""
        return self._reached(lambda state: act(self.scale(self.ground.observe(state))), users)

    def _reached(self, act: Any, users: int | None = None) -> dict[str, Any]:
        found = lives(self.ground, act, self.ground.fresh[:users], TensorStreams(10_000 + self.seed)).sum(0)
        return {name: float(mean) for name, mean in means(found).items()}
