"""Simulated users who respond, leave and return.

:data:`REGISTRY` names worlds that need no data, one for each kind of action. Importing this package loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recrl.core.contracts import World
    from simulators.config import WorldAction


def _toy(action_kind: WorldAction) -> World:
    from dataclasses import replace

    from simulators.toy import TOY_CONFIG, toy_world

    return toy_world(replace(TOY_CONFIG, action_kind=action_kind))


REGISTRY: dict[str, Callable[[], World]] = {
    "toy": lambda: _toy("fusion_weights"),
    "toy-item": lambda: _toy("item"),
    "toy-slate": lambda: _toy("slate"),
    "toy-embedding": lambda: _toy("embedding"),
}
"""Worlds that need no data, by name."""
