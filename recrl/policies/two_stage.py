"""Two stages, as large recommenders work: one policy names candidates, another one chooses among them.

**Cost** of a request: one score of the generator for every item, (B, n_items) float32, its top ``pool_size``, and the chooser's scores of
those alone, (B, pool_size). With a ranker of item vectors as generator the first is one matrix product, and nothing of the size of the
catalogue is exponentiated, drawn or kept in 64 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recrl.core.config import from_dict
from recrl.core.contracts import ActionSpec, Observation
from recrl.core.errors import ConfigError
from recrl.policies.boosted import BoostedScores
from recrl.policies.items import ItemPolicy, item_spec
from recrl.policies.storage import save_policy

_STAGES = ("generator", "chooser")


class TwoStagePolicy(ItemPolicy):
    """A chooser over the ``pool_size`` items that a generator scores highest.

    The shortlist is deterministic, so probabilities are exact: those of the chooser over the shortlist, and 0 for every other item (a
    log-probability of minus infinity, an importance weight of 0). Where the observation lists candidates, the shortlist is taken from
    them; a list that is no longer than ``pool_size`` is taken as it stands, and the policy is the chooser.

    Args:
        generator: its scores make the shortlist.
        chooser: draws from it.
        pool_size: items of the shortlist.
        action_spec: one item or a slate; by default the chooser's.

    **Shapes**: value (B,) or (B, K) item indices, log_prob (B,).

    **When it fails**: off-policy estimates learn nothing from a logged item outside the shortlist; where most lie there, the effective
    sample size says so. Choose a larger ``pool_size``.

    **Errors**: :class:`ConfigError` for stages over different catalogues, stages that are themselves two, and a shortlist that is longer
    than the catalogue or shorter than the slate.
    """

    kind = "two_stage"

    def __init__(self, generator: ItemPolicy, chooser: ItemPolicy, pool_size: int, action_spec: ActionSpec | None = None) -> None:
        spec = action_spec or chooser.action_spec
        super().__init__(chooser.scores, spec, chooser.temperature)
        items, least = chooser.scores.items, spec.shape[0] if spec.shape else 1
        if isinstance(generator, TwoStagePolicy) or isinstance(chooser, TwoStagePolicy):
            raise ConfigError("a stage has two stages itself", where="TwoStagePolicy", mend="give plain policies over items")
        if generator.scores.items != items:
            raise ConfigError(
                f"the generator knows {generator.scores.items} items, the chooser {items}",
                where="TwoStagePolicy.generator",
                mend="train both on the same data",
            )
        if not least <= pool_size <= items:
            raise ConfigError(
                f"a shortlist of {pool_size} of {items} items for {least} to show",
                where="TwoStagePolicy.pool_size",
                mend=f"choose {least} to {items}",
            )
        self.generator = generator.with_spec(item_spec(items, pool=spec.candidates == "pool"))
        self.pool_size = pool_size

    def with_spec(self, action_spec: ActionSpec) -> TwoStagePolicy:
        """The same policy for another slate size or candidate set; networks are shared."""
        return TwoStagePolicy(self.generator, self._chooser, self.pool_size, action_spec)

    @property
    def _chooser(self) -> ItemPolicy:
        slate = self.action_spec.shape[0] if self.action_spec.shape else None
        return ItemPolicy(self.scores, item_spec(self.scores.items, slate, pool=True), self.temperature)

    @torch.no_grad()
    def shortlist(self, observation: Observation) -> Tensor:
        """The candidates of each request, (B, at most ``pool_size``); -1 where the observation lists no more."""
        given, scores = self.generator._logits(observation)
        if given is not None and given.shape[1] <= self.pool_size:
            return given
        best = scores.topk(self.pool_size, dim=1).indices
        return best if given is None else given.gather(1, best)

    def _logits(self, observation: Observation) -> tuple[Tensor | None, Tensor]:
        return self._chooser._logits(replace(observation, candidates=self.shortlist(observation)))

    def save(self, folder: Path) -> None:
        """Write the policy to ``folder``."""
        stages = dict(zip(_STAGES, (self.generator, self._chooser), strict=True))
        # cloned: safetensors refuses tensors that two stages share
        tensors = {f"{stage}.{name}": tensor.clone() for stage, one in stages.items() for name, tensor in one.scores.state_dict().items()}
        texts = {
            f"{stage}-{name}": text
            for stage, policy in stages.items()
            if isinstance(policy.scores, BoostedScores)
            for name, text in policy.scores.texts().items()
        }
        config = {"pool_size": self.pool_size, "action_spec": asdict(self.action_spec)}
        save_policy(folder, self.kind, {**config, **{stage: _described(policy) for stage, policy in stages.items()}}, tensors, texts)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TwoStagePolicy:
        """Build a saved policy again."""
        generator, chooser = (
            ItemPolicy.load({**config[stage], "texts": _of(stage, "-", config.get("texts", {}))}, _of(stage, ".", tensors))
            for stage in _STAGES
        )
        return cls(generator, chooser, config["pool_size"], from_dict(ActionSpec, config["action_spec"]))


def _described(policy: ItemPolicy) -> dict[str, Any]:
    """What :meth:`ItemPolicy.load` needs besides tensors and texts."""
    return {
        "scores": policy.scores.kind,
        "scores_config": policy.scores.config(),
        "action_spec": asdict(policy.action_spec),
        "temperature": policy.temperature,
    }


def _of(stage: str, joint: str, named: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{stage}{joint}"
    return {name.removeprefix(start): value for name, value in named.items() if name.startswith(start)}
