"""Small networks for predicted rewards and returns; with :mod:`offline_eval.fqe` the only part of :mod:`offline_eval` that needs torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from recrl.core.contracts import ActionSpec
from recrl.core.errors import ConfigError
from recrl.core.streams import Purpose
from recrl.core.torch.streams import TensorStreams

ONE_HOT_UP_TO = 64
"""Actions of at most so many choices are encoded one by one, others by learned vectors."""


def perceptron(sizes: Sequence[int], seed: int) -> nn.Sequential:
    """Linear layers with ReLU between them, weights drawn from ``seed`` alone."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_uniform_(linear.weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class ActionFeatures(nn.Module):
    """Actions of a spec as vectors: (..., *shape) -> (..., width).

    Vectors are scaled to [-1, 1] by their bounds. An index is looked up in ``item_vectors``, else one-hot (up to :data:`ONE_HOT_UP_TO`
    choices), else a learned vector; a slate is its positions side by side.

    **Errors**: :class:`ConfigError` for text.
    """

    def __init__(self, spec: ActionSpec, item_vectors: Tensor | None = None, seed: int = 0, learned: int = 16) -> None:
        super().__init__()
        if spec.kind == "text":
            raise ConfigError("texts have no action features", where="ActionFeatures.spec", mend="evaluate texts with weights alone")
        self.spec = spec
        self.table: nn.Embedding | None = None
        if spec.is_vector:
            self.width = spec.shape[0]
            return
        choices = spec.choices or 0
        if item_vectors is None and choices <= ONE_HOT_UP_TO:
            item_vectors = torch.eye(choices)
        if item_vectors is None:
            drawn = torch.empty(choices, learned).normal_(generator=torch.Generator().manual_seed(seed))
            self.table = nn.Embedding.from_pretrained(drawn, freeze=False)
        else:
            self.table = nn.Embedding.from_pretrained(item_vectors.to(torch.float32), freeze=True)
        self.width = self.table.embedding_dim * (spec.shape[0] if spec.shape else 1)

    def forward(self, action: Tensor) -> Tensor:
        """Encode any batch shape."""
        if self.table is None:
            return (2.0 * action - (self.spec.high + self.spec.low)) / (self.spec.high - self.spec.low)
        looked_up: Tensor = self.table(action)
        return looked_up.flatten(-2) if self.spec.shape else looked_up


class ActionValue(nn.Module):
    """``q(state, action)``: states (..., S), actions (..., *shape) -> (...)."""

    def __init__(self, state_width: int, actions: ActionFeatures, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        self.actions = actions
        self.body = perceptron([state_width + actions.width, *hidden, 1], seed)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Values of pairs."""
        out: Tensor = self.body(torch.cat([state, self.actions(action)], dim=-1)).squeeze(-1)
        return out


def descend(
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Tensor, int], Tensor],
    rows: Tensor,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Adam on ``loss(row numbers, step)``; batch ``k`` is a function of ``seed`` and ``k``."""
    optimiser, streams = torch.optim.Adam(parameters, lr=learning_rate), TensorStreams(seed, rows.device)
    lanes = torch.arange(batch, device=rows.device)
    for step in range(steps):
        chosen = rows[streams.integers(rows.numel(), lanes, step, Purpose.BATCHES)]
        optimiser.zero_grad(set_to_none=True)
        loss(chosen, step).backward()
        optimiser.step()


class TorchRegressor:
    """A perceptron with the two methods of a scikit-learn regressor, for :func:`offline_eval.cross_fit` and :func:`offline_eval.fitted_q`.

    Features and values are standardised; equal seeds give equal fits.

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> fitted = TorchRegressor(hidden=(16,), steps=300).fit(x, x[:, 0] ** 2)
    >>> bool(np.abs(fitted.predict(x) - x[:, 0] ** 2).mean() < 0.05)
    True
    """

    def __init__(
        self, hidden: Sequence[int] = (64, 64), steps: int = 2_000, batch: int = 256, learning_rate: float = 3e-3, seed: int = 0
    ) -> None:
        self.hidden, self.steps, self.batch, self.learning_rate, self.seed = tuple(hidden), steps, batch, learning_rate, seed

    def fit(self, features: ArrayLike, values: ArrayLike) -> TorchRegressor:
        """Learn from features (n, D) and values (n,)."""
        x, y = np.asarray(features, dtype=np.float64), np.asarray(values, dtype=np.float64)
        self.centre, self.spread = x.mean(axis=0), _positive(x.std(axis=0))
        self.level, self.scale = float(y.mean()), float(_positive(y.std()))
        inputs, wanted = self._inputs(x), torch.as_tensor((y - self.level) / self.scale, dtype=torch.float32)
        self.network = perceptron([x.shape[1], *self.hidden, 1], self.seed)

        def loss(rows: Tensor, step: int) -> Tensor:
            return ((self.network(inputs[rows]).squeeze(-1) - wanted[rows]) ** 2).mean()

        everything = torch.arange(len(wanted))
        descend(
            list(self.network.parameters()),
            loss,
            everything,
            steps=self.steps,
            batch=min(self.batch, len(wanted)),
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        return self

    @torch.no_grad()
    def predict(self, features: ArrayLike) -> NDArray[np.float64]:
        """Predicted values (n,) of features (n, D)."""
        out = self.network(self._inputs(np.asarray(features, dtype=np.float64))).squeeze(-1)
        return self.level + self.scale * np.asarray(out.double().numpy())

    def _inputs(self, x: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor((x - self.centre) / self.spread, dtype=torch.float32)


class TorchClassifier:
    """A perceptron with the methods of a scikit-learn classifier, for :func:`offline_eval.cross_fit_propensities` and
    :func:`offline_eval.cross_fit_hazards`.

    Features are standardised; equal seeds give equal fits. ``classes_`` are the labels seen, ascending.

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 200)[:, None]
    >>> fitted = TorchClassifier(hidden=(16,), steps=300).fit(x, (x[:, 0] > 0).astype(int))
    >>> bool(((fitted.predict_proba(x)[:, 1] > 0.5) == (x[:, 0] > 0)).mean() > 0.95)
    True
    """

    def __init__(
        self, hidden: Sequence[int] = (64, 64), steps: int = 2_000, batch: int = 256, learning_rate: float = 3e-3, seed: int = 0
    ) -> None:
        self.hidden, self.steps, self.batch, self.learning_rate, self.seed = tuple(hidden), steps, batch, learning_rate, seed

    def fit(self, features: ArrayLike, labels: ArrayLike) -> TorchClassifier:
        """Learn from features (n, D) and labels (n,)."""
        x = np.asarray(features, dtype=np.float64)
        self.classes_, index = np.unique(np.asarray(labels), return_inverse=True)
        self.centre, self.spread = x.mean(axis=0), _positive(x.std(axis=0))
        inputs, wanted = self._inputs(x), torch.as_tensor(index)
        self.network = perceptron([x.shape[1], *self.hidden, self.classes_.size], self.seed)

        def loss(rows: Tensor, step: int) -> Tensor:
            return nn.functional.cross_entropy(self.network(inputs[rows]), wanted[rows])

        parameters, batch = list(self.network.parameters()), min(self.batch, len(wanted))
        everything = torch.arange(len(wanted))
        descend(parameters, loss, everything, steps=self.steps, batch=batch, learning_rate=self.learning_rate, seed=self.seed)
        return self

    @torch.no_grad()
    def predict_proba(self, features: ArrayLike) -> NDArray[np.float64]:
        """Probabilities (n, classes)."""
        chance = self.network(self._inputs(np.asarray(features, dtype=np.float64))).double().softmax(-1)
        return np.asarray(chance.numpy())

    def _inputs(self, x: NDArray[np.float64]) -> Tensor:
        return torch.as_tensor((x - self.centre) / self.spread, dtype=torch.float32)


def _positive(spread: NDArray[np.float64] | np.floating) -> NDArray[np.float64]:
    return np.where(spread > 0, spread, 1.0)
