"""Questions before something that costs time, space or data. Nobody is asked who is not there."""

import sys

import typer

from sana_cli.errors import ExitCode, SanaError
from sana_cli.text import one_line


def confirm(question: str, *, yes: bool) -> None:
    """Return if the answer is yes; typer.Abort if it is no, SanaError where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise SanaError(
            f"needs a yes, and nobody is here to give it: {question}",
            hint="run it in a terminal, or with --yes",
            code=ExitCode.USAGE,
        )
    if not typer.confirm(one_line(question), err=True):
        raise SanaError("nothing was done", code=ExitCode.INTERRUPTED)
