"""A log as transitions: flat columns and row numbers; histories and states are rebuilt by gather when a batch is drawn.

A row costs 35 bytes plus 4 a reward signal, whatever the history length.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Observation, Transitions
from recrl.core.errors import ConfigError, DataError
from recrl.core.objective import Objective, Signal
from recrl.core.ragged import Offsets
from recrl.core.torch.views import as_tensor
from recrl_datasets import Log, sessions

ActionEncoder = Callable[[Tensor, Tensor], Tensor]
"""Logged actions of (user, item) index pairs: (B,), (B,) -> (B, *shape)."""

_MS_PER_DAY = 86_400_000.0


class LoggedBuffer:
    """Transitions of a log.

    A request is one step. Its state holds what happened before it: neither the row's own item and feedback, which are the action and
    the reward, nor those of other rows of the same request, which were chosen at the same moment. The next state of a row is that of
    the user's next request; a request of several items gives several transitions from one state to the other. The last request of
    a user has no next state (:attr:`has_next`). It is truncated, not terminated: that a log ends does not mean that the user left.

    Args:
        log: rows sorted by user and time.
        objective: which signals are rewards; ``return`` is minus the return gap in days, at the last request of a session.
        history: items a state remembers.
        session_rule: how sessions are cut.
        encode_action: logged action of (user, item); ``None`` keeps the item index.
        device: where the columns live.

    **Errors**: :class:`DataError` for an empty log or a signal that the log does not hold.
    """

    def __init__(
        self,
        log: Log,
        objective: Objective,
        *,
        history: int = 20,
        session_rule: Literal["gap", "day"] = "gap",
        encode_action: ActionEncoder | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if log.n_rows == 0:
            raise DataError("the log holds no rows", where="LoggedBuffer.log", mend="check the split fractions or the filter")
        cut = sessions(log, rule=session_rule)
        rows_of_sessions = cut.requests.through(cut.rows)
        session, request = rows_of_sessions.segment_ids(), cut.rows.segment_ids()
        last_request = (cut.requests.values[1:] - 1)[session] == request
        users = log.column("user")
        self._positions = log.positions
        self.objective, self.history, self.device = objective, history, torch.device(device)
        self._encode = encode_action
        self.user = as_tensor(users, device)
        self.item = as_tensor(log.column("item"), device)
        self.bits = as_tensor(log.feedback_bits(), device)
        self.start = as_tensor(log.user_offsets.values[:-1], device)
        self.session_end = as_tensor(last_request, device)
        # first row of the row's request, and of the user's next one
        self.request = as_tensor(cut.rows.values[request].astype(np.int32), device)
        following = cut.rows.values[request + 1]
        self.next_request = as_tensor(following.astype(np.int32), device)
        self.has_next = as_tensor(following < log.user_offsets.values[users + 1], device)
        self.clock = as_tensor(_clock(log, cut.start_ms, cut.end_ms, cut.user, session, request, cut.requests.values), device)
        gap = np.where(last_request, cut.gap_days[session], 0.0)
        self.reward = as_tensor(np.stack([_reward(log, s, gap, objective) for s in objective.signals], axis=1), device)

    def __len__(self) -> int:
        return int(self.item.shape[0])

    def rows_of(self, view: Log, *, with_next: bool = True) -> Tensor:
        """Row numbers of a view of the buffer's log, ascending.

        Args:
            view: a split or selection of the log that the buffer was built from.
            with_next: leave out rows whose next request is missing or lies outside the view: a training transition must not
                reach into the test part, not even by when the user came back.

        **Errors**: :class:`DataError` when the view holds rows that the buffer does not.
        """
        rows = np.searchsorted(self._positions, view.positions)
        if rows.size and (rows[-1] >= self._positions.size or bool(np.any(self._positions[rows] != view.positions))):
            raise DataError(
                "the view is not part of the buffer's log",
                where="LoggedBuffer.rows_of",
                mend="split the log that the buffer was built from",
            )
        inside = np.zeros(len(self) + 1, dtype=bool)
        inside[rows] = True
        following = self.next_request.cpu().numpy()[rows]
        keep = self.has_next.cpu().numpy()[rows] & inside[following] if with_next else slice(None)
        return as_tensor(rows[keep], self.device)

    def within(self, view: Log) -> LoggedBuffer:
        """The same columns, for learning from ``view`` alone: a row whose next request lies outside is truncated, its return unknown (0).

        **Errors**: :class:`DataError` when the view holds rows that the buffer does not.
        """
        inside = torch.zeros(len(self) + 1, dtype=torch.bool, device=self.device)
        inside[self.rows_of(view, with_next=False)] = True
        other = copy(self)
        other.has_next = self.has_next & inside[self.next_request.to(torch.int64)]
        tells = torch.tensor([s.name == "return" for s in self.objective.signals], device=self.device)
        other.reward = torch.where(tells & ~other.has_next.unsqueeze(1), 0.0, self.reward)
        return other

    def session_starts(self) -> NDArray[np.bool_]:
        """Whether a row is the first of its session, (n,), on the host."""
        ends, request = self.session_end.cpu().numpy(), self.request.cpu().numpy()
        starts = np.ones(len(self), dtype=bool)
        starts[1:] = ends[:-1] & (request[1:] != request[:-1])
        return starts

    def nbytes(self) -> int:
        """Bytes that the columns take."""
        columns = (
            self.user,
            self.item,
            self.bits,
            self.session_end,
            self.has_next,
            self.request,
            self.next_request,
            self.clock,
            self.reward,
        )
        return sum(c.numel() * c.element_size() for c in columns)

    def observation(self, index: Tensor) -> Observation:
        """States before the rows ``index`` (B,): history (B, H), clock (B, 4)."""
        return self._state(index, self.user[index].to(torch.int64), self.clock[index])

    def gather(self, index: Tensor, segments: Offsets | None = None) -> Transitions:
        """Transitions of the rows ``index`` (B,); ``segments`` tells which are consecutive."""
        has_next = self.has_next[index]
        following = torch.where(has_next, self.next_request[index].to(torch.int64), index)
        user = self.user[index].to(torch.int64)
        item = self.item[index].to(torch.int64)
        return Transitions(
            observation=self._state(index, user, self.clock[index]),
            action=item if self._encode is None else self._encode(user, item),
            reward=self.reward[index],
            # where no request follows, the next state is the row's own: it is truncated and must not be bootstrapped from
            next_observation=self._state(following, user, self.clock[following]),
            terminated=torch.zeros_like(has_next),
            truncated=~has_next,
            session_end=self.session_end[index],
            index=index,
            cluster=user,
            item=item,
            segments=segments,
        )

    def _state(self, index: Tensor, user: Tensor, clock: Tensor) -> Observation:
        back = torch.arange(-self.history, 0, device=self.device)
        rows = self.request[index].to(torch.int64).unsqueeze(1) + back  # (B, H)
        missing = rows < self.start[user].unsqueeze(1)
        # one flat gather a column, filled in place: half the time of indexing by a matrix and choosing
        flat = rows.clamp_min_(0).reshape(-1)
        return Observation(
            user=user,
            history_items=self.item.index_select(0, flat).view(rows.shape).to(torch.int64).masked_fill_(missing, -1),
            history_feedback=self.bits.index_select(0, flat).view(rows.shape).masked_fill_(missing, 0),
            clock=clock,
        )


def _clock(
    log: Log,
    start_ms: NDArray[np.int64],
    end_ms: NDArray[np.int64],
    session_user: NDArray[np.int32],
    session: NDArray[np.int64],
    request: NDArray[np.int64],
    first_request: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Columns of ``Observation.clock`` for every row, (n, 4)."""
    since = np.zeros(start_ms.size)
    same = session_user[1:] == session_user[:-1]
    since[1:][same] = (start_ms[1:][same] - end_ms[:-1][same]) / _MS_PER_DAY
    number = np.arange(start_ms.size) - np.searchsorted(session_user, session_user, side="left")
    hour = (log.column("timestamp_ms") % _MS_PER_DAY) / _MS_PER_DAY
    position = request - first_request[session]
    return np.stack([np.log1p(since)[session], position, np.log1p(number)[session], hour], axis=1).astype(np.float32)


def _reward(log: Log, signal: Signal, gap: NDArray[np.float64], objective: Objective) -> NDArray[np.float32]:
    if signal.name == "return":
        # a censored gap is unknown; its request is the user's last and never enters a bootstrapped batch
        return -np.nan_to_num(np.minimum(gap, objective.max_gap_days), nan=0.0).astype(np.float32)
    known = (*BEHAVIOURS, "watch_seconds", "rating", "reward")
    if signal.name not in known:
        raise ConfigError(f"unknown signal {signal.name!r}", where="objective", mend=f"choose one of {', '.join((*known, 'return'))}")
    if not log.has(signal.name):
        raise DataError(
            f"the log holds no {signal.name!r}",
            where="objective",
            mend=f"choose a signal the log holds: {', '.join(c for c in known if log.has(c))}",
        )
    return log.column(signal.name).astype(np.float32)
