"""Measure all that needs a CUDA device, the most telling first, in the minutes that there are.

`python -m benchmarks.gpu_suite --minutes 8 [--out FOLDER] [--only ITEM] [--rehearse]`. Each item of `gpu_items.py` runs in a
process of its own with its own time limit: one that fails, hangs or breaks the device costs itself alone. Results are written after
each; started again on the same device and code, the suite does what is not done yet. `--rehearse` runs it all on a simulated
device. The exit code is 0 whatever failed: the page says so.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import RESULTS
from quant.files import new_file, read_small_text

ROOT = Path(__file__).parents[1]
_LEAST_S = 10  # an item that is given less is left for the next time
_REHEARSED = 4  # times an item's seconds, for a CPU that others use, too
_ERROR = re.compile(
    r"[\w.]+(Error|Exception|Resources)\b"
)  # the line of a traceback that says what
_FINISHED = ("ok", "wrong", "skipped")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A thing to find out."""

    name: str
    seconds: float  # at most
    decides: str
    command: tuple[str, ...] = ()  # in place of the item's own, for tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of an item. All that it found before is kept, however it ended."""

    item: str
    state: str  # ok | wrong | failed | timeout | skipped
    seconds: float
    found: dict[str, Any] = field(default_factory=dict)
    reason: str = ""  # in one line


# In the order of what they show for their minutes.
ITEMS = (
    Item(name="facts", seconds=30, decides="what the device, its driver and its libraries are"),
    Item(name="kernels", seconds=60, decides="whether each kernel compiles, runs and agrees"),
    Item(name="picture", seconds=60, decides="whether sana draws, and the same as without kernels"),
    Item(name="picture-0.6b", seconds=60, decides="a picture of Sana-0.6B's size: denoise and decode"),
    Item(name="step-bf16", seconds=45, decides="a step of Sana-0.6B: plain, engine, graph"),
    Item(name="step-w8a8", seconds=45, decides="the same in w8a8"),
    Item(name="decode", seconds=60, decides="the decoder at 1024 pixels: plain, fused, w8a8"),
    Item(name="products", seconds=60, decides="our products against _int_mm, bf16 and fp8"),
    Item(name="blocks", seconds=30, decides="the share of a copy that kernels between products reach"),
    Item(name="profile-w8a8", seconds=30, decides="which kernels take a step's time"),
    Item(name="diffusers", seconds=120, decides="step and decoder by diffusers, eager and compiled"),
    Item(name="step-f8a8", seconds=45, decides="a step in 8-bit floats"),
    Item(name="picture-0.6b-w8a8", seconds=60, decides="a whole picture in w8a8"),
    Item(name="step-1.6b-bf16", seconds=60, decides="a step of Sana-1.6B"),
    Item(name="step-1.6b-w8a8", seconds=75, decides="the same in w8a8"),
    Item(name="memory", seconds=60, decides="measured peaks against the forecast, and under caps of it"),
    Item(name="profile-bf16", seconds=30, decides="which kernels take a step's time in bf16"),
    Item(name="tiles", seconds=180, decides="which tile is the fastest: `benchmarks.gpu_tiles` makes it ship"),
    Item(name="tests", seconds=120, decides="edge shapes: every test that needs a device"),
)  # fmt: skip


def run_suite(
    items: Sequence[Item],
    *,
    minutes: float,
    path: Path,
    rehearse: bool = False,
    root: Path = ROOT,
) -> dict[str, Any]:
    """Run what is not done yet, those that failed before last; returns the document, which is at `path` at any time.

    Results of other code than that in `root` are measured again.
    """
    ends = time.monotonic() + 60 * minutes
    document = _begun(path, code_digest(root))
    done: dict[str, Any] = document["items"]
    todo = [item for item in items if done.get(item.name, {}).get("state") not in _FINISHED]
    todo.sort(key=lambda item: item.name in done)
    with tempfile.TemporaryDirectory(prefix="sana-gpu-suite-") as scratch:
        for item in todo:
            left = ends - time.monotonic()
            if left < min(_LEAST_S, item.seconds):
                print(f"{'left':<9}{item.name}: {item.decides}", flush=True)
                continue
            limit = item.seconds * (_REHEARSED if rehearse else 1)
            outcome = _run(item, min(limit, left), Path(scratch), rehearse=rehearse)
            done[item.name] = asdict(outcome)
            _write(path, document)
            print(
                f"{outcome.state:<9}{item.name} {outcome.seconds:.0f} s  {outcome.reason}",
                flush=True,
            )
    return document


def _run(item: Item, limit: float, scratch: Path, *, rehearse: bool) -> Outcome:
    answer, log = scratch / f"{item.name}.json", scratch / f"{item.name}.log"
    answer.unlink(missing_ok=True)
    command = list(item.command) or [
        sys.executable,
        "-X",
        "faulthandler",
        "-m",
        "benchmarks.gpu_items",
        item.name,
    ]
    command += [str(answer), *(["--rehearse"] if rehearse else [])]
    # Verdicts and compiled kernels of this run alone; what one item compiled serves the next.
    caches = {"SANA_CACHE": str(scratch / "cache"), "TRITON_CACHE_DIR": str(scratch / "triton")}
    started = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT,
            env=os.environ | caches, start_new_session=True,
        )  # fmt: skip
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    found = _answer(answer)
    seconds = time.monotonic() - started
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in said if _ERROR.match(line)] or said
    last = errors[-1][:300] if errors else ""
    if code is None:
        return Outcome(item=item.name, state="timeout", seconds=seconds, found=found, reason=last)
    if code:
        reason = last or f"ended with {code}"
        return Outcome(item=item.name, state="failed", seconds=seconds, found=found, reason=reason)
    for state in ("skipped", "wrong"):
        if reason := str(found.pop(state, "")):
            return Outcome(item=item.name, state=state, seconds=seconds, found=found, reason=reason)
    return Outcome(item=item.name, state="ok", seconds=seconds, found=found)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End an item and all that it started; it may hang in the driver."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_small_text(path))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


# -- what is kept ----------------------------------------------------------------------------------


def _begun(path: Path, code: str) -> dict[str, Any]:
    """The document of an earlier run of the same code, or a new one."""
    found = _answer(path)
    if found.get("code") == code and isinstance(found.get("items"), dict):
        return found
    return {
        "benchmark": "gpu_suite", "date": date.today().isoformat(), "code": code, "items": {},
    }  # fmt: skip


def code_digest(root: Path = ROOT) -> str:
    """Identify the code that is measured and that measures: results of other code are not results of this."""
    digest = hashlib.sha256()
    for folder in ("sana_cli", "quant", "benchmarks"):
        for source in sorted((root / folder).rglob("*.py")):
            digest.update(str(source.relative_to(root)).encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in (
        (path, json.dumps(document, indent=1) + "\n"),
        (path.with_suffix(".md"), page(document)),
    ):
        with new_file(target, overwrite=True) as file:
            file.write(text.encode())


def page(document: dict[str, Any]) -> str:
    """The document for people: a table of items, and the numbers of each."""
    lines = [
        f"# GPU suite, {document['date']}",
        "",
        "| item | state | s | what it found |",
        "|---|---|---|---|",
    ]
    details = []
    for name, outcome in document["items"].items():
        reason = str(outcome["reason"]).replace("|", "/")
        lines.append(f"| {name} | {outcome['state']} | {outcome['seconds']:.0f} | {reason} |")
        details += [f"- {name}: {row}" for row in _rows(outcome["found"])]
    return "\n".join([*lines, "", *details]) + "\n"


def _rows(found: dict[str, Any]) -> list[str]:
    """Numbers in one line each; rows of a table one a line."""
    rows = []
    for key, value in found.items():
        if isinstance(value, list):
            rows += [
                f"{key}: " + ", ".join(_named(each)) for each in value if isinstance(each, dict)
            ]
        elif isinstance(value, dict):
            rows.append(f"{key}: " + ", ".join(_named(value)))
        else:
            rows.append(", ".join(_named({key: value})))
    return rows


def _named(values: dict[str, Any]) -> list[str]:
    return [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]


def _device() -> str:
    """Its name in a file's, asked of the driver: this process must not touch CUDA."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return re.sub(r"\W+", "-", done.stdout.strip().partition("\n")[0]).strip("-").lower()


def _path(out: Path, device: str) -> Path:
    """The newest document of a device, which may be gone on with, or a new one."""
    return max(out.glob(f"gpu-{device}-*.json"), default=out / f"gpu-{device}-{date.today()}.json")


def main(
    minutes: Annotated[float, typer.Option(help="For all items together.")] = 8,
    out: Annotated[Path, typer.Option(help="The folder of the document.")] = RESULTS,
    only: Annotated[str, typer.Option(help="Items, with commas between them.")] = "",
    rehearse: Annotated[bool, typer.Option(help="On a simulated device, with tiny sizes.")] = False,
) -> None:
    """Measure all that needs a CUDA device, the most telling first, in the minutes that there are."""
    chosen = [item for item in ITEMS if not only or item.name in only.split(",")]
    path = _path(out, "rehearsal" if rehearse else _device())
    run_suite(chosen, minutes=minutes, path=path, rehearse=rehearse)
    print(f"{path} and {path.with_suffix('.md')}")
    # In a process of its own: a plot that fails costs no number.
    subprocess.run([sys.executable, "-m", "benchmarks.gpu_plots", str(path)], cwd=ROOT, check=False)


if __name__ == "__main__":
    typer.run(main)
