"""`sana doctor`: what works on this machine, what does not, and what to do about it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from sana_cli.errors import ExitCode
from sana_cli.terminal.options import JsonOption
from sana_cli.text import counted, print_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sana_cli.doctor import Check

_SIGNS = {"ok": "ok  ", "note": "note", "problem": "FAIL"}


def doctor(json: JsonOption = False) -> int:
    """Check this machine, and say what to do about each problem.

    Device, kernels, memory, versions, disk, models and settings. The exit code is 3 if there are problems.
    """
    from sana_cli.doctor import CHECKS

    return report(CHECKS, json=json)


def report(checks: "Mapping[str, Check]", *, json: bool) -> int:
    """Run some checks and print what they find; return the exit code."""
    from rich.console import Console

    from sana_cli.doctor import examine

    findings = []
    # A spinner in a terminal, nothing elsewhere; it pauses for lines, which would end up within it.
    with Console(stderr=True).status("") as status:
        for finding in examine(checks, lambda topic: status.update(f"checking: {topic}")):
            findings.append(finding)
            if json:
                continue
            status.stop()
            say(f"{_SIGNS[finding.state]}  {finding.topic:<9} {finding.text}")
            if finding.remedy:
                say(f"{'':16}-> {finding.remedy}")
            status.start()
    problems = sum(finding.state == "problem" for finding in findings)
    if json:
        document = {"problems": problems, "findings": [asdict(finding) for finding in findings]}
        print_json(document)
    else:
        say(counted(problems, "problem"))
    return ExitCode.ENVIRONMENT if problems else ExitCode.OK
