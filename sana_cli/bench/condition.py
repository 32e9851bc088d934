"""`--fail-if "total>1.2*baseline.json"`: when a measurement is not good enough. No torch."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.files import read_small_text
from sana_cli.bench.statistics import rounded
from sana_cli.errors import usage_error

_FORM = re.compile(
    r"\s*(?:(?P<contender>[^:<>]+):)?(?P<metric>[a-z_]+)\s*(?P<sign>[<>])\s*"
    r"(?:(?P<factor>\d+(?:\.\d+)?)\s*(?:\*\s*(?P<file>\S.*?))?|(?P<bare>\S.*?))\s*"
)
_MEMORY = {"peak_host": "peak_host_bytes", "peak_device": "peak_device_bytes"}
_METRICS = (
    "load", "text", "prepare", "step", "denoise", "decode", "encode", "picture", "total", "cpu",
    "times_as_fast", "psnr", *_MEMORY,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A metric that must not be above (or below) a number, or a number of times what a file says."""

    text: str
    contender: str | None  # None: the first one
    metric: str
    sign: str
    factor: float
    baseline: dict[str, Any] | None

    def broken_by(self, document: dict[str, Any]) -> str:
        """Why the document fails; empty when it does not."""
        found = _value(document, self.contender, self.metric)
        limit = self.factor
        if self.baseline is not None:
            limit *= _value(self.baseline, self.contender, self.metric)
        failed = found > limit if self.sign == ">" else found < limit
        relation = "above" if self.sign == ">" else "below"
        return f"{self.metric} is {rounded(found)}, {relation} {rounded(limit)}" if failed else ""


def parse_condition(text: str) -> Condition:
    """Read `[CONTENDER:]METRIC > [FACTOR*]FILE` or `... > NUMBER`; SanaError for anything else."""
    match = _FORM.fullmatch(text)
    if match is None or match["metric"] not in _METRICS:
        raise usage_error(
            f"cannot read --fail-if {text!r}",
            f'write "total>1.2*baseline.json" or "step>0.5"; metrics: {", ".join(_METRICS)}',
        )
    file = match["file"] or match["bare"]
    return Condition(
        text=text,
        contender=match["contender"],
        metric=match["metric"],
        sign=match["sign"],
        factor=float(match["factor"] or 1),
        baseline=_read(Path(file)) if file else None,
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_small_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise usage_error(
            f"--fail-if cannot read {path}", "name a file that --json wrote"
        ) from error
    if not isinstance(document, dict) or not isinstance(document.get("contenders"), dict):
        raise usage_error(
            f"{path} is not a document of sana bench", "name a file that --json wrote"
        )
    return document


def _value(document: dict[str, Any], contender: str | None, metric: str) -> float:
    """Return seconds (median), bytes, the ratio of whole pictures, or the PSNR of pictures in dB.

    PSNR compares with the first contender's picture; without a `contender` it is the worst of all. SanaError where the
    document lacks the value.
    """
    try:
        if metric == "psnr":
            return _psnr(document["pictures"], contender)
        contenders = document["contenders"]
        name = contender or next(iter(contenders))
        if metric == "times_as_fast":
            return float(document["times_as_fast"][name]["picture"]["median"])
        if metric in _MEMORY:
            return float(contenders[name][_MEMORY[metric]])
        return float(contenders[name]["stages"][metric]["median"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        which = contender or ("any contender" if metric == "psnr" else "the first contender")
        hint = "time two contenders or more: their pictures are compared with the first one's"
        raise usage_error(
            f"--fail-if: nothing was measured for {metric} of {which}",
            hint if metric == "psnr" else "compare documents with the same contenders",
        ) from error


def _psnr(pictures: dict[str, Any], contender: str | None) -> float:
    """Equal pictures have no finite one."""
    chosen = [pictures[contender]] if contender else list(pictures.values())
    values = [found["psnr_db"] for found in chosen]
    return min(float("inf") if value is None else float(value) for value in values)
