"""Which log is meant, and how it is read. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.pipeline.saved import policy_digest, saved_policy
from recrl_datasets import REGISTRY, Store, open_store, prepare
from recrl_datasets.staging import standing_still

SessionRule = Literal["auto", "gap", "day"]


@dataclass(frozen=True)
class DataOptions:
    """Which log, and how it is read.

    Attributes:
        data: name of a dataset (`recrl data list`) or path of a prepared store.
        root: folder of the dataset's official files, where it needs one.
        stores: where prepared stores live.
        session_rule: ``gap`` (30 minutes), ``day`` (calendar days), or ``auto``: days for logs whose sessions are thinned to
            single rows (KuaiRand Pure), gaps otherwise.
        signal: reward to maximise: a behaviour, ``watch_seconds``, ``rating`` or ``return``.
        vectors: where item vectors come from: `svd` of the training rows, or the run or saved policy of a ranker that has
            some (`bpr`, `lightgcn`, `sasrec`, `gru4rec`), trained on this log.
        vector_size: length of the vectors of `svd`.
    """

    data: str = "ml-100k"
    root: Path | None = None
    stores: Path = Path("stores")
    session_rule: SessionRule = "auto"
    signal: str = "long_view"
    vectors: str = "svd"
    vector_size: int = 32

    def asked(self, store: Store) -> dict[str, Any]:
        """What of these options decides a result, for a run's configuration; where files lie does not."""
        source = self.vectors_folder
        return {
            "data": store.name,
            "session_rule": self.session_rule,
            "signal": self.signal,
            # training that ranker anew makes another source
            "vectors": policy_digest(source) if source else self.vectors,
            "vector_size": self.vector_size,
        }

    @property
    def vectors_folder(self) -> Path | None:
        """The saved ranker that item vectors are taken from; ``None`` for ``svd``.

        **Errors**: :class:`ConfigError` where there is none, or more than one.
        """
        return None if self.vectors == "svd" else saved_policy(self.vectors, "--vectors")

    def __post_init__(self) -> None:
        if self.vector_size < 2 or self.vector_size % 2:
            raise ConfigError(f"vector_size={self.vector_size}", where="data.vector_size", mend="give an even length of at least 2")


def load_store(options: DataOptions, progress: Progress | None = None) -> Store:
    """The prepared store that ``options`` name, prepared now if need be.

    **Errors**: :class:`ConfigError` for a name that is neither a dataset nor a store.
    """
    if options.data in REGISTRY:
        return prepare(options.data, root=options.root, stores=options.stores, progress=progress)
    for path in (Path(options.data), options.stores / options.data):
        with standing_still(path):
            there = path.is_dir()
        if there:
            return open_store(path)
    known = ", ".join(REGISTRY)
    raise ConfigError(
        f"no dataset or store {options.data!r}",
        where="--data",
        mend=f"choose one of {known}, give the path of a prepared store, or make one: recrl data prepare NAME --log FILE",
    )


def session_rule_of(store: Store, rule: SessionRule) -> Literal["gap", "day"]:
    """The session rule in force: ``auto`` means calendar days where the log names them, gaps otherwise."""
    if rule != "auto":
        return rule
    return "day" if store.log().has("local_date") else "gap"
