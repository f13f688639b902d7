"""The verbs: parse, call, print; no logic of their own.

Every verb takes ``--json`` (one JSON object as the last line of stdout, progress on stderr) and ``--debug`` (tracebacks). Exit status:
0 done, 2 the user's mistake (what, where, mend), 130 Ctrl-C with everything so far kept, 1 a defect.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

# a process computes on one core; several seeds or shards are several processes. Set before any library starts its threads.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


@dataclass(frozen=True)
class Verb:
    """One verb: the module and function that do it; its first parameter's type is the verb's options."""

    module: str
    function: str
    help: str


VERBS: dict[str, Verb] = {
    "demo": Verb("recrl.verbs.demo", "demo", "the whole loop on real data: learn, estimate, simulate, compare, report"),
    "data list": Verb("recrl.verbs.data", "list_datasets", "datasets and prepared stores"),
    "data download": Verb("recrl.verbs.data", "download_dataset", "a dataset from its owners: licence, checksum, resumable"),
    "data prepare": Verb("recrl.verbs.prepare", "prepare_dataset", "official files, or a log of your own -> sorted columnar store"),
    "data append": Verb("recrl.verbs.prepare", "append_rows", "new rows or files into a store"),
    "data describe": Verb("recrl.verbs.data", "describe_dataset", "depth, return gaps, rates, popularity: tables and plots"),
    "replay": Verb("recrl.verbs.replay", "replay_log", "the offline half: describe a log, train on it, estimate off-policy"),
    "train": Verb("recrl.verbs.train", "train", "train a learner on a log"),
    "sweep": Verb("recrl.verbs.sweep", "sweep", "tune several learners on a log, with the same budget for each"),
    "online": Verb("recrl.verbs.online", "online", "train a learner by acting, on simulated users or in a control task"),
    "prefer": Verb("recrl.verbs.prefer", "prefer", "label pairs of session timelines: which is better?"),
    "prefer train": Verb("recrl.verbs.prefer", "train_preferences", "a reward and a policy from labelled pairs"),
    "reproduce": Verb("recrl.verbs.reproduce", "reproduce", "a paper's comparison again: method, baselines, controls, verdict"),
    "ope": Verb("recrl.verbs.ope", "ope", "off-policy estimates of a run's policies"),
    "simulate fit": Verb("recrl.verbs.simulate", "fit", "fit a user-retention simulator to a log"),
    "simulate report": Verb("recrl.verbs.simulate", "report", "how well a fitted simulator matches held-out users"),
    "simulate log": Verb("recrl.verbs.simulate", "log", "simulated users under a policy, written as a log with propensities"),
    "ab": Verb("recrl.verbs.ab", "ab", "A/B test of policies in a fitted simulator"),
    "diagnose": Verb("recrl.verbs.diagnose", "diagnose", "does reinforcement learning matter here? for a log or a simulator"),
    "power": Verb("recrl.verbs.power", "plan", "how many users an A/B test needs, or what it can show"),
    "runs list": Verb("recrl.verbs.runs", "list_runs", "runs: state, progress, age, size"),
    "runs show": Verb("recrl.verbs.runs", "show_run", "one run: options, metrics, what it holds, how to go on"),
    "runs rm": Verb("recrl.verbs.runs", "remove_runs", "remove runs"),
    "runs gc": Verb("recrl.verbs.runs", "collect_waste", "remove what no run needs any more"),
    "dashboard": Verb("recrl.verbs.dashboard", "dashboard", "open the dashboard on a folder of runs"),
    "bench": Verb("recrl.verbs.bench", "bench", "benchmarks of the checkout: list them, or run one"),
    "doctor": Verb("recrl.verbs.doctor", "doctor", "versions, device, data found, what is missing and the mend"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug, as_json = _take(words, "--debug"), _take(words, "--json")
    name = next((n for n in (" ".join(words[:2]), " ".join(words[:1])) if n in VERBS), None)
    from recrl.console import Talk
    from recrl.core.errors import RecrlError

    talk = Talk(as_json)
    if name is None:
        return _usage(words, talk)
    try:
        return _call(VERBS[name], name, words[len(name.split()) :], talk)
    except RecrlError as error:
        if debug:
            traceback.print_exc()
        talk.error(error)
        return 2
    except KeyboardInterrupt:
        talk.close()
        print("recrl: stopped; everything so far is kept, the same command goes on", file=sys.stderr)
        talk.failure("stopped", mend="the same command goes on")
        return 130
    except BrokenPipeError:
        # the reader went away (`recrl ... | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        talk.close()
        mend = "run again with --debug and report what it prints"
        print(f"recrl: a defect: {type(error).__name__}: {error}\n  mend:  {mend}", file=sys.stderr)
        talk.failure(f"a defect: {type(error).__name__}: {error}", mend=mend)
        return 1
    finally:
        talk.close()


def _call(verb: Verb, name: str, words: list[str], talk: Any) -> int:
    import tyro

    function: Callable[..., int | None] = getattr(importlib.import_module(verb.module), verb.function)
    options_type = function.__annotations__["options"]
    if isinstance(options_type, str):
        options_type = vars(importlib.import_module(verb.module))[options_type]
    # what stands behind `--` belongs to another program, where the verb runs one
    rest: tuple[str, ...] = ()
    if "--" in words and "arguments" in {f.name for f in fields(options_type)}:
        words, rest = words[: words.index("--")], tuple(words[words.index("--") + 1 :])
    footer = "Also: --json prints one JSON object as the last line of stdout; --debug shows tracebacks."
    try:
        options = tyro.cli(options_type, args=words, prog=f"recrl {name}", description=f"{verb.help}. {footer}")
    except SystemExit as done:
        status = int(done.code or 0)
        if status:
            talk.failure("options not understood", where=f"recrl {name}", mend=f"recrl {name} --help lists them")
        return status
    return function(replace(options, arguments=rest) if rest else options, talk) or 0


def _take(words: list[str], flag: str) -> bool:
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word != flag]
    found = len(kept) < end
    words[:end] = kept
    return found


def _usage(words: list[str], talk: Any) -> int:
    asked = not words or words[0] in ("-h", "--help", "help")
    group = [n for n in VERBS if words and n.split()[0] == words[0]]
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        asked = len(words) > 1
    out = sys.stdout if asked else sys.stderr
    if words and not asked:
        print(f"recrl: unknown command {' '.join(words[:2])!r}", file=sys.stderr)
    print("usage: recrl VERB [options]   (recrl VERB --help lists the options of a verb)\n", file=out)
    for name in group or VERBS:
        print(f"  {name:<16} {VERBS[name].help}", file=out)
    if not asked:
        talk.failure(f"unknown command {' '.join(words[:2])!r}", where="recrl", mend=f"verbs: {', '.join(VERBS)}")
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
