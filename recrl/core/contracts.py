"""The contracts that hold the house together: small protocols and frozen dataclasses.

An array here is a NumPy array or a torch tensor; this module imports neither torch nor anything of ours
above the ground floor. ``B`` is the batch, ``H`` the history length, ``C`` the number of candidates, ``K`` the
slate length, ``m`` the number of reward signals. Every implementation passes the suite of its contract in
:mod:`recrl.checks`; how known methods are written against them stands in ``docs/contracts.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from recrl.core.errors import ConfigError
from recrl.core.ragged import Offsets

Array: TypeAlias = Any
"""A NumPy array or a torch tensor."""

Progress: TypeAlias = Callable[[float, str], None]
"""How long work tells its progress: the finished share (0 to 1) and a line of text."""

ActionKind = Literal["item", "slate", "fusion_weights", "embedding", "continuous", "discrete", "text"]


@dataclass(frozen=True)
class ActionSpec:
    """What an action is.

    Attributes:
        kind: ``item`` and ``discrete`` are single indices; ``slate`` is ``K`` different item indices;
            ``fusion_weights``, ``embedding`` and ``continuous`` are real vectors; ``text`` is token ids.
        shape: shape of one action: ``()`` for item and discrete, ``(K,)`` for slate, ``(d,)`` for vectors,
            ``(max_tokens,)`` for text.
        low: lower bound of each component of a vector.
        high: upper bound of each component of a vector.
        choices: number of items, discrete actions or tokens; ``None`` for vectors.
        candidates: whether items are chosen from the whole ``catalogue`` or from the ``pool`` that the
            observation lists.
    """

    kind: ActionKind
    shape: tuple[int, ...] = ()
    low: float = -1.0
    high: float = 1.0
    choices: int | None = None
    candidates: Literal["catalogue", "pool"] = "catalogue"

    def __post_init__(self) -> None:
        rank = 0 if self.kind in ("item", "discrete") else 1
        if len(self.shape) != rank or any(n < 1 for n in self.shape):
            raise ConfigError(
                f"shape {self.shape} does not fit kind {self.kind!r}", where="ActionSpec.shape", mend=f"give {rank} positive dimension(s)"
            )
        if (self.choices is None) != self.is_vector:
            raise ConfigError(
                f"choices={self.choices} does not fit kind {self.kind!r}",
                where="ActionSpec.choices",
                mend="index kinds need the number of choices, vector kinds none",
            )
        if self.choices is not None and self.choices < max(1, *(self.shape if self.kind == "slate" else ()), 1):
            raise ConfigError(
                f"choices={self.choices} cannot fill shape {self.shape}",
                where="ActionSpec.choices",
                mend="give at least as many choices as the slate is long",
            )
        if not self.low < self.high:
            raise ConfigError(f"bounds [{self.low}, {self.high}] are empty", where="ActionSpec.low")

    @property
    def is_vector(self) -> bool:
        """Whether the action is a real vector."""
        return self.kind in ("fusion_weights", "embedding", "continuous")


@dataclass(frozen=True, eq=False)
class Observation:
    """What a policy sees, as a batch of named arrays; fields that do not apply are ``None``.

    **Shapes**: ``features`` (B, D) float32, the flat view that control tasks and generic libraries use;
    ``user`` (B,) int64, -1 for an unknown user; ``history_items`` (B, H) int64, oldest first, padded on the left with -1;
    ``history_feedback`` (B, H) uint8, bits of :mod:`recrl.core.behaviours`; ``clock`` (B, 4) float32:
    log(1 + days since the last session), requests so far in this session, log(1 + sessions so far), hour of day / 24;
    ``candidates`` (B, C) int64; ``candidate_scores`` (B, C, F) float32, predicted behaviours;
    ``tokens`` (B, T) int64.
    """

    features: Array = None
    user: Array = None
    history_items: Array = None
    history_feedback: Array = None
    clock: Array = None
    candidates: Array = None
    candidate_scores: Array = None
    tokens: Array = None

    def map(self, function: Callable[[Array], Array]) -> Observation:
        """Apply ``function`` to every array that is present."""
        present = {f.name: getattr(self, f.name) for f in fields(self)}
        return Observation(**{name: None if array is None else function(array) for name, array in present.items()})

    def __getitem__(self, index: Any) -> Observation:
        """Rows of the batch."""
        return self.map(lambda array: array[index])

    def __len__(self) -> int:
        return next(int(a.shape[0]) for a in (getattr(self, f.name) for f in fields(self)) if a is not None)


@dataclass(frozen=True, eq=False)
class Action:
    """A batch of actions: ``value`` (B, *shape) and ``log_prob`` (B,), or ``None`` for a deterministic vector.

    ``notes`` carries what else must reach the replay buffer, for example whether a teacher stepped in.
    """

    value: Array
    log_prob: Array | None = None
    notes: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Transitions:
    """A batch of transitions; logged, collected and generated ones alike.

    **Shapes**: ``action`` (B, *shape); ``reward`` (B, m), columns in the order of ``Objective.signals``;
    ``terminated`` (B,) bool: the user is gone for good, do not bootstrap; ``truncated`` (B,) bool: the record
    ends here although the user goes on; ``session_end`` (B,) bool: the next observation belongs to a later session,
    discounts switch from within to across; ``behaviour_log_prob`` (B,); ``weight`` (B,) sampling correction;
    ``index`` (B,) position in the buffer, for priorities; ``cluster`` (B,) user, for intervals;
    ``item`` (B,) shown item. ``segments`` marks consecutive rows of one trajectory (on-policy and sequence methods).
    """

    observation: Observation
    action: Array
    reward: Array
    next_observation: Observation
    terminated: Array
    truncated: Array
    session_end: Array
    behaviour_log_prob: Array | None = None
    weight: Array | None = None
    index: Array | None = None
    cluster: Array | None = None
    item: Array | None = None
    segments: Offsets | None = None
    notes: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.reward.shape[0])

    def with_reward(self, reward: Array) -> Transitions:
        """The same transitions with another reward: what reward transforms return."""
        return replace(self, reward=reward)


@dataclass(frozen=True)
class Update:
    """What one learning step reports: named scalars (0-d tensors allowed, read later) and new priorities (B,)."""

    metrics: Mapping[str, Any]
    priorities: Array | None = None


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state belongs into a checkpoint: nested dicts and lists of tensors, numbers and strings."""

    def state_dict(self) -> dict[str, Any]:
        """Everything exact resume needs."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Chooses actions for a batch of observations.

    ``act`` draws from ``streams`` (purpose EXPLORATION) keyed by user and step, so a user's action does not depend
    on who else is in the batch; with ``deterministic=True`` it draws nothing.
    """

    action_spec: ActionSpec

    def act(self, observation: Observation, streams: Any, *, step: Array | int = 0, deterministic: bool = False) -> Action:
        """Actions for ``B`` users; ``step`` is a counter that no two draws of one user share (nor two simulated copies of
        one user: :attr:`simulators.state.UserState.draw_step`).
        """
        ...

    def log_prob(self, observation: Observation, action: Array) -> Array:
        """Log-probability or log-density of ``action`` under the stochastic policy, ``(B,)``."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything needed to load the policy again into ``folder``."""
        ...


@runtime_checkable
class Sampler(Stateful, Protocol):
    """Draws training batches from a buffer; prioritised ones take priorities back."""

    def sample(self, size: int, step: int) -> Transitions:
        """A batch of ``size`` transitions, or ``size`` segments of them; a function of buffer, priorities, seed and ``step`` alone."""
        ...

    def update_priorities(self, index: Array, priorities: Array) -> None:
        """Take the priorities of an :class:`Update`; uniform samplers ignore them."""
        ...


@runtime_checkable
class Algorithm(Stateful, Protocol):
    """A learner that improves a policy from batches, logged or collected."""

    name: ClassVar[str]
    action_spec: ActionSpec

    def policy(self) -> Policy:
        """The policy as it would be deployed now."""
        ...

    def collect_policy(self) -> Policy:
        """The policy that gathers data: exploring, guarded or taught."""
        ...

    def observe(self, transitions: Transitions) -> None:
        """See newly collected transitions once, before any batch is drawn from them."""
        ...

    def update(self, batch: Transitions) -> Update:
        """One learning step."""
        ...


@runtime_checkable
class PopulationAlgorithm(Protocol):
    """A learner over whole policies, such as the cross-entropy method."""

    name: ClassVar[str]
    action_spec: ActionSpec

    def ask(self, count: int, generation: int) -> Sequence[Policy]:
        """``count`` policies to try."""
        ...

    def tell(self, returns: Array) -> Update:
        """Returns (count,) of the policies asked for last, in order."""
        ...

    def policy(self) -> Policy:
        """The policy as it would be deployed now."""
        ...


@runtime_checkable
class BatchTransform(Stateful, Protocol):
    """A composable change to training batches, such as a reward add-on; it may learn."""

    def apply(self, batch: Transitions) -> Transitions:
        """The changed batch; the input is left as it is."""
        ...

    def update(self, batch: Transitions) -> Update:
        """Learn from the unchanged batch."""
        ...


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one environment step gives each user.

    **Shapes**: ``reward`` (B, m); ``terminated``, ``truncated``, ``session_end`` (B,) bool; ``gap_days`` (B,), the
    return gap where a session ended, else 0; ``shown`` (B, K) items, ``feedback`` (B, K) uint8 bits,
    ``watch_seconds`` (B, K) or ``None``; ``truth`` holds probabilities, hazards and drift, for probes only.
    """

    reward: Array
    terminated: Array
    truncated: Array
    session_end: Array
    gap_days: Array
    shown: Array
    feedback: Array
    watch_seconds: Array | None = None
    truth: Mapping[str, Array] = field(default_factory=dict)


@runtime_checkable
class World(Protocol):
    """An environment as pure functions over a struct of arrays; Gymnasium wrappers stand on it."""

    action_spec: ActionSpec

    def initial_state(self, users: Array, streams: Any) -> Any:
        """State of fresh users ``(B,)``."""
        ...

    def observe(self, state: Any) -> Observation:
        """What a policy sees of ``state``."""
        ...

    def transition(self, state: Any, action: Array, streams: Any) -> tuple[Any, Outcome]:
        """One request for every live user; ``state`` itself is left as it is."""
        ...


@dataclass(frozen=True, eq=False)
class LoggedFeedback:
    """Logged rows as an estimator needs them; no (rows x actions) array is ever required.

    **Shapes**: ``reward`` (n,); ``target_log_prob``, ``behaviour_log_prob`` (n,) of the logged action;
    ``cluster`` (n,) integer user (rows of one user are dependent); ``target_value`` (n,) and ``logged_value`` (n,):
    predicted reward under the target policy and of the logged action, for direct and doubly robust estimators (predicted return
    for sequential ones); ``trajectory`` groups consecutive rows for sequential estimators; ``discount`` (n,) in [0, 1], the factor
    from a row to the next one of its trajectory, 1 where absent; ``final_value`` (trajectories,), the predicted return after
    the last row of a trajectory that the record cuts off, 0 where absent.
    """

    reward: Array
    target_log_prob: Array
    behaviour_log_prob: Array
    cluster: Array
    target_value: Array | None = None
    logged_value: Array | None = None
    trajectory: Offsets | None = None
    discount: Array | None = None
    final_value: Array | None = None


@dataclass(frozen=True, eq=False)
class Contributions:
    """Contributions, one a row or one a trajectory, of an estimate ``sum_k (sum_i numerator_k,i / sum_i denominator_k,i)``.

    Intervals by user, influence and diagnostics follow from the contributions alone. IPS has one term with
    denominator 1, SNIPS one with the weights, self-normalised DR two.

    **Shapes**: ``numerators``, ``denominators`` (k, n) float64; ``cluster`` (n,) int64; ``weights`` (n,) importance weights.
    """

    numerators: Array
    denominators: Array
    cluster: Array
    weights: Array


@runtime_checkable
class Estimator(Protocol):
    """An off-policy estimator."""

    name: ClassVar[str]

    def contributions(self, feedback: LoggedFeedback) -> Contributions:
        """Contributions a row or a trajectory; their value and interval are read by :mod:`offline_eval`."""
        ...
