"""`--fail-if "total>1.2*baseline.json"`: when a measurement is not good enough. No torch."""

import json
import re
from dataclasses import dataclass
from math import inf
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
    "load", "text", "prompt", "prepare", "step", "denoise", "decode", "encode", "picture", "total", "cpu",
    "times_as_fast", "psnr", *_MEMORY,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A metric that must not be above (or below) a limit: a number, or a number of times what a file says."""

    text: str
    contender: str | None  # None: the first one
    metric: str
    sign: str
    limit: float

    def broken_by(self, document: dict[str, Any]) -> str:
        """Why the document fails; empty when it does not."""
        found = _value(document, self.contender, self.metric)
        failed = found > self.limit if self.sign == ">" else found < self.limit
        relation = "above" if self.sign == ">" else "below"
        return (
            f"{self.metric} is {_shown(found)}, {relation} {_shown(self.limit)}" if failed else ""
        )


def parse_condition(text: str) -> Condition:
    """Read `[CONTENDER:]METRIC > [FACTOR*]FILE` or `... > NUMBER`; SanaError for anything else.

    Also for a file that lacks the value: nothing would be decided by it after minutes of measuring.
    """
    match = _FORM.fullmatch(text)
    limit = float(match["factor"] or 1) if match else inf
    if match is None or match["metric"] not in _METRICS or limit == inf:
        raise usage_error(
            f"cannot read --fail-if {text!r}",
            f'write "total>1.2*baseline.json" or "step>0.5"; metrics: {", ".join(_METRICS)}',
        )
    file = match["file"] or match["bare"]
    if file:
        said = _value(_read(Path(file)), match["contender"], match["metric"], file)
        limit = said if said == inf else limit * said
    return Condition(
        text=text,
        contender=match["contender"],
        metric=match["metric"],
        sign=match["sign"],
        limit=limit,
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


def _value(document: dict[str, Any], contender: str | None, metric: str, file: str = "") -> float:
    """Return seconds (median), bytes, the ratio of whole pictures, or the PSNR of pictures in dB.

    PSNR compares with the first contender's picture; without a `contender` it is the worst of all. SanaError where the
    document, of a `file` or just measured, lacks the value or holds NaN or another kind.
    """
    try:
        if metric == "psnr":
            return _psnr(document["pictures"], contender)
        contenders = document["contenders"]
        name = contender or next(iter(contenders))
        if metric == "times_as_fast":
            return _figure(document["times_as_fast"][name]["picture"]["median"])
        if metric in _MEMORY:
            return _figure(contenders[name][_MEMORY[metric]])
        return _figure(contenders[name]["stages"][metric]["median"])
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        which = contender or ("any contender" if metric == "psnr" else "the first contender")
        hint = "time two contenders or more: their pictures are compared with the first one's"
        raise usage_error(
            f"--fail-if: nothing was measured for {metric} of {which}" + (file and f" in {file}"),
            hint if metric == "psnr" else "compare documents with the same contenders",
        ) from error


def _psnr(pictures: dict[str, Any], contender: str | None) -> float:
    """Equal pictures have no finite one."""
    chosen = [pictures[contender]] if contender else list(pictures.values())
    values = [found["psnr_db"] for found in chosen]
    return min(inf if value is None else _figure(value) for value in values)


def _figure(value: object) -> float:
    """A number of a document; ValueError for NaN, which no comparison fails, and for what is none."""
    if type(value) not in (int, float) or not 0 <= value < 1e300:  # type: ignore[operator]
        raise ValueError(value)
    return float(value)  # type: ignore[arg-type]


def _shown(value: float) -> str:
    return "infinite" if value == inf else str(rounded(value))
