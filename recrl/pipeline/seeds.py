"""One piece of work for several seeds, each in a process of its own; and what the seeds say together."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from recrl.core.contracts import Progress
from recrl.core.errors import RecrlError

Work = Callable[[Any, Progress], dict[str, Any]]
"""A module's own function from options and a reporter to a JSON-ready result."""

_STOP_SECONDS = 60.0


@dataclass(frozen=True)
class SeedResult:
    """What came of one seed: its ``result``, or what went wrong.

    ``state`` is ``failed`` for a mistake that the user can mend, ``defect`` for any other error.
    """

    seed: int
    state: Literal["done", "failed", "defect"]
    result: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, str] = field(default_factory=dict)


def over_seeds(work: Work, options: Mapping[int, Any], jobs: int, tell: Callable[[int, float, str], None]) -> list[SeedResult]:
    """``work`` for the options of each seed, ``jobs`` processes at a time; one that fails lets the others finish.

    Ctrl-C stops every process as Ctrl-C would stop it alone, so that each keeps what it has; so does the death of this process.

    Args:
        work: what each process does; it must be importable.
        options: options by seed.
        jobs: processes at a time.
        tell: hears the seed, its finished share and a line of text.
    """
    waiting, found = dict(options), {}
    running: dict[Connection, tuple[int, BaseProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                seed = next(iter(waiting))
                connection, process = _start(work, waiting.pop(seed))
                running[connection] = (seed, process)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                seed, process = running[ready]
                message = _heard(ready, process)
                if message[0] == "progress":
                    tell(seed, message[1], message[2])
                    continue
                found[seed] = SeedResult(seed, message[0], **message[1])
                process.join()
                del running[ready]
    finally:
        _stop([process for _, process in running.values()])
    return [found[seed] for seed in options]


def _start(work: Work, options: Any) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, options, theirs), daemon=True)
    # a terminal sends Ctrl-C to the whole group: the children leave it to this process, which stops each once
    with _deaf_to_ctrl_c():
        process.start()
    theirs.close()
    return ours, process


def _heard(connection: Connection, process: BaseProcess) -> tuple[Any, ...]:
    try:
        message: tuple[Any, ...] = connection.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        what = f"its process was killed by signal {-code}" if code < 0 else f"its process ended with exit status {code}"
        mend = "is there enough memory for as many --jobs? The same command goes on"
        message = ("defect", {"error": {"what": what, "where": "", "mend": mend}})
    return message


def _stop(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_STOP_SECONDS)
        if process.is_alive():
            process.kill()


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    # signals belong to the main thread; elsewhere there is nobody to be interrupted
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _child(work: Work, options: Any, connection: Connection) -> None:
    def interrupted(*_: object) -> None:
        # once is enough: what follows is saving
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    threading.Thread(target=_follow_parent, daemon=True).start()
    # stdout belongs to the result of the whole command
    os.dup2(sys.stderr.fileno(), 1)

    def tell(done: float, text: str) -> None:
        try:
            connection.send(("progress", done, text))
        except OSError:
            # nobody listens any more: stop and keep what is there
            interrupted()

    with suppress(KeyboardInterrupt, OSError):
        connection.send(_outcome(work, options, tell))


def _outcome(work: Work, options: Any, tell: Progress) -> tuple[str, dict[str, Any]]:
    try:
        return "done", {"result": work(options, tell)}
    except RecrlError as error:
        return "failed", {"error": {"what": error.what, "where": error.where, "mend": error.mend}}
    except Exception as error:
        mend = "run this seed alone with --debug and report what it prints"
        return "defect", {"error": {"what": f"a defect: {type(error).__name__}: {error}", "where": "", "mend": mend}}


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def raise_failed(results: Sequence[SeedResult], name: Callable[[int], str], words: Mapping[str, str] | None = None) -> None:
    """Raise the first error, for work that is worth nothing in part; ``words`` of its mend are replaced by the caller's own.

    **Errors**: :class:`RecrlError` of the first that is not done, ``name`` of its key before it.
    """
    for result in results:
        if result.state != "done":
            mend = result.error["mend"]
            for ours, theirs in (words or {}).items():
                mend = mend.replace(ours, theirs)
            raise RecrlError(f"{name(result.seed)}: {result.error['what']}", where=result.error["where"], mend=mend)


def student_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and half the width of its Student-t interval, NaN for a single seed.

    >>> [round(x, 3) for x in student_interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    from scipy.stats import t

    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    return mean, float(t.ppf(0.5 + level / 2, count - 1)) * spread / math.sqrt(count)


def summarise(finals: Sequence[Mapping[str, float]], level: float = 0.95) -> list[dict[str, Any]]:
    """Mean over seeds of each number that every seed has, with a Student-t interval; no interval for a single seed.

    >>> row = summarise([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}])[0]
    >>> [round(row[name], 3) for name in ("mean", "lower", "upper")]
    [2.0, -0.484, 4.484]
    """
    rows = []
    for name in [n for n in finals[0] if all(n in final for final in finals)] if finals else []:
        mean, half = student_interval([float(final[name]) for final in finals], level)
        rows.append({"metric": name, "mean": mean, "lower": mean - half, "upper": mean + half, "level": level, "seeds": len(finals)})
    return rows


def cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
