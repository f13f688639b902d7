"""Adds up what simulated users do, row by row beside their states: no scatter over the population while a request goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from recrl.core.behaviours import BEHAVIOURS
from recrl.core.contracts import Outcome
from simulators.ab.design import DAILY, RETENTION_DAYS
from simulators.ab.facts import Facts
from simulators.ab.users import UserMetrics

_BEFORE = ("requests", "sessions", "shown", "watch_seconds")
_BEHIND = ("returns", "gap_days", "churned", "first_return_day")
_ITEMS = ("novelty_bits", "diversity")


class ItemTables:
    """The facts about items as tensors of one device; the last row stands for "nothing shown"."""

    def __init__(self, facts: Facts, n_items: int, device: torch.device | str = "cpu") -> None:
        self.n_items = n_items
        bits, directions = facts.novelty_bits(), facts.directions()
        self.novelty = None if bits is None else _padded(bits, 0.0, device)
        self.directions = None if directions is None else _padded(directions, 0.0, device)
        # squared lengths: 1, or 0 for an item without a vector
        self.lengths = None if self.directions is None else self.directions.square().sum(1)
        self.provider_names: tuple[str, ...] = facts.providers.names if facts.providers else ()
        none = len(self.provider_names)
        codes = facts.providers and np.where(facts.providers.codes < 0, none, facts.providers.codes)
        self.providers = None if codes is None else _padded(codes, none, device)


class Meter:
    """Sums of the users in memory, and of all who are done.

    Args:
        n: users of the arm.
        days: simulated days.
        device: where states live.
        items: what is known of items; ``None`` counts no exposures.
    """

    def __init__(self, n: int, days: int, device: torch.device, items: ItemTables | None) -> None:
        self.n, self.days, self._items, self._device = n, days, items, device
        providers = items.provider_names if items else ()
        self.columns = (*_BEFORE, *BEHAVIOURS, *_BEHIND, *_ITEMS, *(f"provider_{k}" for k in range(len(providers))))
        self._daily_of = [self.columns.index(name) for name in DAILY]
        # one more row takes what batches are filled up with
        self._done = torch.zeros(n + 1, len(self.columns), dtype=torch.float64, device=device)
        self._done_daily = torch.zeros(n + 1, days, len(DAILY), device=device)
        self._next_day = torch.zeros(n + 1, dtype=torch.int64, device=device)
        self._sums, self._daily = self._done[:0], self._done_daily[:0]
        self._exposures = torch.zeros(items.n_items + 1 if items else 0, dtype=torch.int64, device=device)
        self._has_watch, self._has_slates = True, False
        self._ones = torch.ones((), dtype=torch.int64, device=device)
        # each behaviour's bit in a byte of its own: the bytes add up to counts
        bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
        self._spread = torch.from_numpy(np.ascontiguousarray(bits.astype(np.uint8)).view(np.int64).reshape(-1)).to(device)

    def select(self, keep: Tensor, slot: Tensor, state: Any) -> None:
        """Store the users who are done, rows where ``keep`` (B,) is false, under their ``slot`` (B,); the others stay."""
        gone = ~keep
        where = slot[gone]
        self._done[where], self._done_daily[where] = self._sums[gone], self._daily[gone]
        self._next_day[where] = torch.floor(state.day[gone]).to(torch.int64)
        self._sums, self._daily = self._sums[keep], self._daily[keep]

    def extend(self, rows: int) -> None:
        """Fresh users, or rows that fill up a batch, behind the others."""
        fresh = torch.zeros(rows, len(self.columns), dtype=torch.float64, device=self._device)
        self._sums = torch.cat([self._sums, fresh])
        self._daily = torch.cat([self._daily, torch.zeros(rows, self.days, len(DAILY), device=self._device)])

    def add(self, state: Any, outcome: Outcome, live: Tensor, real: int) -> None:
        """Add one request of each user, ``live`` (B,) telling who made one; rows from ``real`` on fill up the batch."""
        gains = torch.zeros_like(self._sums)
        returns = outcome.session_end & ~outcome.terminated
        gap = outcome.gap_days * returns
        count = len(_BEFORE) + len(BEHAVIOURS)
        gains[:, 0], gains[:, 1], gains[:, 2] = live, outcome.session_end, (outcome.shown >= 0).sum(1)
        if outcome.watch_seconds is None:
            self._has_watch = False
        else:
            gains[:, 3] = outcome.watch_seconds.double().sum(1)
        happened = self._spread[outcome.feedback.to(torch.int64)].sum(1, keepdim=True).view(torch.uint8)
        gains[:, len(_BEFORE) : count] = happened[:, : len(BEHAVIOURS)]
        for k, value in enumerate((returns, gap, outcome.terminated, gap * (state.session == 0)), start=count):
            gains[:, k] = value
        if self._items is not None:
            self._add_items(gains, outcome.shown, live, real, self._items)
        gains *= live.unsqueeze(1)
        self._sums += gains
        day = state.day.to(torch.int64).clamp_max(self.days - 1)
        rows = torch.arange(day.numel(), device=self._device)
        self._daily[rows, day] += gains[:, self._daily_of].float()

    def _add_items(self, gains: Tensor, shown: Tensor, live: Tensor, real: int, items: ItemTables) -> None:
        at, slate = self.columns.index("novelty_bits"), shown.shape[1]
        shown = torch.where((shown >= 0) & live.unsqueeze(1), shown, items.n_items)
        if items.novelty is not None:
            gains[:, at] = items.novelty[shown].sum(1)
        if items.directions is not None and items.lengths is not None and slate > 1:
            self._has_slates = True
            # |sum of vectors|^2 holds each pair twice, and each item with itself once
            whole = embedding_bag(shown, items.directions, mode="sum").square().sum(1)
            gains[:, at + 1] = 1.0 - (whole - items.lengths[shown].sum(1)) / (slate * (slate - 1))
        ones = self._ones.expand(shown.shape)
        if items.providers is not None:
            counts = torch.zeros(len(shown), len(items.provider_names) + 1, dtype=torch.int64, device=self._device)
            gains[:, at + 2 :] = counts.scatter_add_(1, items.providers[shown], ones)[:, :-1]
        self._exposures.scatter_add_(0, shown[:real].reshape(-1), ones[:real].reshape(-1))

    def result(self, users: Tensor, baseline: Tensor | None) -> UserMetrics:
        """What every user did, once all are done."""
        totals = self._done[:-1].cpu().numpy().T
        columns = {name: np.ascontiguousarray(column) for name, column in zip(self.columns, totals, strict=True)}
        daily_of = self._done_daily[:-1].permute(2, 0, 1).cpu().numpy()
        daily = {name: _narrow(part) if name != "watch_seconds" else part.copy() for name, part in zip(DAILY, daily_of, strict=True)}
        next_day = self._next_day[:-1].cpu().numpy()
        active = daily["requests"] > 0
        columns["active_days"] = active.sum(axis=1).astype(np.float64)
        columns["returned_next_day"] = (columns["first_return_day"] == 1).astype(np.float64)
        for day in RETENTION_DAYS:
            if day <= self.days:
                # the next session may start on the first day that is not simulated any more
                there = active[:, day] if day < self.days else next_day == day
                columns[f"active_day_{day}"] = there.astype(np.float64)
        absent = [] if self._has_watch else ["watch_seconds"]
        if self._items is None or self._items.novelty is None:
            absent.append("novelty_bits")
        if not self._has_slates:
            absent.append("diversity")
        for name in absent:
            del columns[name]
            daily.pop(name, None)
        covariates = {} if baseline is None else {"baseline": baseline.double().cpu().numpy()}
        return UserMetrics(users.cpu().numpy(), columns, daily, covariates, self._exposures[:-1].cpu().numpy())


def _narrow(counts: Any) -> Any:
    """Counts in two bytes each where they fit."""
    return counts.astype(np.uint16 if counts.size and counts.max() < 2**16 else np.uint32)


def _padded(table: Any, last: float, device: torch.device | str) -> Tensor:
    """The table as a tensor with one more row."""
    rows = torch.as_tensor(np.asarray(table))
    return torch.cat([rows, torch.full_like(rows[:1], last)]).to(device)
