"""``recrl dashboard``: the Streamlit app on a folder of runs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dashboards.serve import command
from recrl.console import Talk


@dataclass(frozen=True)
class DashboardOptions:
    """Which runs, and where to listen.

    Attributes:
        runs: where runs live.
        port: port on 127.0.0.1.
    """

    runs: Path = Path("runs")
    port: int = 8501


def dashboard(options: DashboardOptions, talk: Talk) -> int:
    """Serve until interrupted."""
    talk.say(f"dashboard on http://127.0.0.1:{options.port} (Ctrl-C stops it)")
    talk.result({"url": f"http://127.0.0.1:{options.port}"})
    # the server talks to a reader, not to whoever reads the result
    with subprocess.Popen(command(options.runs, options.port), stdout=sys.stderr) as server:
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            raise
