"""Several seeds of one verb, each in a process and a run folder of its own, and what they say together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recrl.console import Talk
from recrl.core.contracts import Progress
from recrl.core.errors import ConfigError
from recrl.core.torch.devices import resolve_device
from recrl.pipeline.seeds import SeedResult, cores, over_seeds, summarise
from recrl.training.tensorboard import check_tensorboard


@dataclass(frozen=True)
class RunOptions:
    """Seeds, device and place of a run.

    Attributes:
        seed: of networks, batches, users and noise; the first one where there are several.
        seeds: how many seeds, each in a process and a run folder of its own.
        jobs: processes at a time; 0 is one a core.
        device: `auto`, `cpu` or `cuda`; runs on the CPU repeat bit for bit.
        tensorboard: write the metrics for TensorBoard too, under `<run>/tensorboard`.
        runs: where runs live.
        run: name of the run; with several seeds each gets `-seed<k>` behind it. The same command goes on where it was stopped.
    """

    seed: int = 0
    seeds: int = 1
    jobs: int = 0
    device: str = "cpu"
    tensorboard: bool = False
    runs: Path = Path("runs")
    run: str = ""

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("jobs", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least {least}", where=f"--{name}")

    def checked(self) -> str:
        """The device; asked before anything is made.

        **Errors**: :class:`ConfigError` for an unknown or absent device, ``MissingDependencyError`` for an absent TensorBoard.
        """
        if self.tensorboard:
            check_tensorboard()
        return resolve_device(self.device)

    def of_seed(self, seed: int) -> RunOptions:
        """The same for one seed of several."""
        return replace(self, seed=seed, seeds=1, run=f"{self.run}-seed{seed}" if self.run else "")


def over_all_seeds(work: Callable[[Any, Progress], dict[str, Any]], options: Any, talk: Talk) -> int:
    """Do ``work`` for each seed of ``options.how``, print what they say together; returns the exit status.

    ``work`` gives an object with ``run`` (its folder), ``final`` (its final metrics) and perhaps a ``note`` that holds for every seed.
    """
    how: RunOptions = options.how
    each = {seed: replace(options, how=how.of_seed(seed)) for seed in range(how.seed, how.seed + how.seeds)}
    reporters = {seed: talk.progress(f"seed {seed}") for seed in each}
    results = over_seeds(work, each, how.jobs or cores(), lambda seed, done, text: reporters[seed](done, text))
    talk.close()
    done = [result for result in results if result.state == "done"]
    summary = summarise([result.result["final"] for result in done])
    if done and "note" in done[0].result:
        talk.say(done[0].result["note"])
    if len(done) > 1:
        rows = [[str(row["metric"]), *(f"{row[c]:.5g}" for c in ("mean", "lower", "upper"))] for row in summary]
        title = f"Final metrics over {len(done)} seeds: mean and 95 % Student-t interval"
        talk.table(title, ["metric", "mean", "lower", "upper"], rows)
    for result in done:
        talk.say(f"seed {result.seed}: {result.result['run']}")
    told: dict[str, Any] = {"runs": [_told(result) for result in results], "summary": summary}
    failed = [result for result in results if result.state != "done"]
    if failed:
        numbers = ", ".join(str(result.seed) for result in failed)
        what, mend = f"{len(failed)} of {len(results)} seeds failed: {numbers}", "the same command goes on with them"
        lines = [f"seed {r.seed}: {r.error['what']}" + (f"\n  mend:  {r.error['mend']}" if r.error["mend"] else "") for r in failed]
        talk.warn("\n".join([*lines, f"recrl: {what}; {mend}"]))
        told["error"] = {"what": what, "where": "--seeds", "mend": mend}
    talk.result(told)
    return 0 if not failed else 1 if any(result.state == "defect" for result in failed) else 2


def _told(result: SeedResult) -> dict[str, Any]:
    told = {"seed": result.seed, "state": result.state, **result.result}
    return told if result.state == "done" else {**told, "error": dict(result.error)}
