"""Options of every registered learner, for the verbs that train: a learner that is registered has its options on the command line."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import field, make_dataclass
from typing import Annotated, Any

import tyro

from recrl.algorithms import REGISTRY


def learner_options(name: str, module: str, leave_out: Collection[str] = ()) -> type[Any]:
    """A frozen dataclass ``name`` with one field a learner, named as it and holding its defaults; options are ``--<learner>.<option>``.

    ``module`` holds it under ``name``: processes of other seeds unpickle it from there.

    >>> learner_options("Some", __name__)().td3.policy_delay
    2
    """
    kinds = {learner: kind.config_type for learner, kind in REGISTRY.items() if learner not in leave_out}
    made = make_dataclass(
        name,
        [(n, Annotated[kind, tyro.conf.arg(help=f"options of `{n}`.")], field(default=kind())) for n, kind in kinds.items()],
        frozen=True,
    )
    made.__module__ = module
    return made
