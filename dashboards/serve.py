"""How the app is started: on this machine only, without questions, without telemetry."""

from __future__ import annotations

import sys
from pathlib import Path


def command(runs: Path, port: int) -> list[str]:
    """The command line that serves the runs of ``runs`` on 127.0.0.1:``port``."""
    # Streamlit would run a `pages` folder beside the entry script on its own; inside the folder it finds none
    entry = Path(__file__).parent / "pages" / "__main__.py"
    options = {
        "server.address": "127.0.0.1",
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        # a full collection after each run holds up its last messages, by more than the run itself takes; the usual one does
        "runner.postScriptGC": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "theme.light.primaryColor": "#1a58a0",
        # captions are this at 60 %: darker than Streamlit's own, for contrast
        "theme.light.textColor": "#101218",
        # commands named in captions too
        "theme.light.codeTextColor": "#101218",
        "theme.dark.primaryColor": "#6cb0f5",
        "theme.dark.codeTextColor": "#fafafa",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(entry), *flags, "--", "--runs", str(runs)]
