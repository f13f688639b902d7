"""Light work for the processes of several seeds, to be ended in every way."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from recrl.core.contracts import Progress
from recrl.core.errors import RecrlError
from recrl.core.runs import RunFolder


@dataclass(frozen=True)
class Asked:
    """What one process is asked."""

    seed: int
    folder: Path
    does: str = "ends"


def work(asked: Asked, progress: Progress) -> dict[str, object]:
    """A run that ends as it is asked to; one that lasts counts its beats."""
    run = RunFolder.create(asked.folder / f"seed{asked.seed}", kind="test", config={}, seed=asked.seed)
    with run.running():
        report = run.heartbeats(progress)
        report(0.5, "half")
        match asked.does:
            case "diverges":
                raise RecrlError("loss is not finite by step 10", where="metrics", mend="lower the learning rate")
            case "breaks":
                raise ZeroDivisionError("by accident")
            case "is killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "lasts":
                for beat in range(10_000):
                    # one of them has nothing to tell the command for long
                    if asked.seed % 2:
                        run.set_status("running", stage=f"beat {beat}", done=0.5)
                    else:
                        report(0.5, f"beat {beat}")
                    time.sleep(0.02)
    return {"run": str(run.path), "final": {"loss": float(asked.seed)}, "process": os.getpid()}


def last(folder: Path) -> int:
    """Three seeds that last, two at a time; the exit status of a stopped command."""
    from recrl.pipeline.seeds import over_seeds

    try:
        over_seeds(work, {seed: Asked(seed, folder, "lasts") for seed in range(3)}, 2, lambda seed, done, text: None)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(last(Path(sys.argv[1])))
