"""`sana`, and `python -m sana_cli`: the program, also while it is imported."""

import os

from sana_cli.system.collector import collect_rarely
from sana_cli.system.ending import register_last


def run() -> None:
    """Run the console script. `main` reports interrupts; until it is imported, this does."""
    register_last()
    collect_rarely()
    try:
        from sana_cli.cli import run as run_cli
    except KeyboardInterrupt:
        from sana_cli.text import say

        say("error: interrupted", err=True)
        os._exit(130)  # an interrupt inside a C import makes CPython end itself by the signal
    run_cli()


if __name__ == "__main__":
    run()
