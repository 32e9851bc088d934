"""`sana`, and `python -m sana_cli`: the program, also while it is imported."""

import os

from sana_cli.system.collector import collect_rarely


def run() -> None:
    """Run the console script. `main` reports interrupts; until it is imported, this does."""
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
