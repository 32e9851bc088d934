"""Run contenders side by side: every round runs each of them once, in turns, so that a noisy machine hits all alike.

Where two do not fit into memory at once, they run one after the other, and the document says so.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sana_cli.bench.contenders import Contender, Workload
from sana_cli.errors import ExitCode, SanaError

PARTS = ("text", "denoise", "decode")
_MARGIN = 0.8  # of the free memory


class Worker:
    """A process that answers commands. Use as a context manager, so that it never outlives the session."""

    def __init__(self, name: str, scratch: Path | None = None) -> None:
        """`scratch` is where its temporary files go, so that they are gone with it even after a kill."""
        self.name = name
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sana_cli.bench.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            encoding="utf-8", env={**os.environ, **({"TMPDIR": str(scratch)} if scratch else {})},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if error is not None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and wait for its answer. SanaError names the contender that failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": command, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SanaError(
                f"{self.name}: its process ended ({self._last_words()})",
                hint="most often the machine ran out of memory: time fewer contenders at once",
                code=ExitCode.ENVIRONMENT,
            )
        answer = json.loads(line)
        if "error" in answer:
            error = answer["error"]
            raise SanaError(
                f"{self.name}: {error['message']}",
                hint=error["hint"] or "omit this contender",
                code=ExitCode(error["code"]),
            )
        return answer["ok"]

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else f"exit code {code}"


@dataclass(slots=True)
class Timings:
    """Raw seconds of one contender, by stage; the first run of a part stands apart."""

    runs: dict[str, list[list[float]]] = field(default_factory=dict)  # stage -> rounds -> values
    first: dict[str, list[float]] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)  # by part
    cpu: dict[str, list[float]] = field(default_factory=dict)  # seconds of all threads, by part
    joules: dict[str, list[float]] = field(default_factory=dict)  # by part
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The measurements of a session."""

    timings: dict[str, Timings]  # by contender
    started: dict[str, dict[str, Any]]  # what each said about its settings
    interleaved: dict[str, bool]  # by part
    pictures: dict[str, Path]  # uint8 arrays (B, 3, H, W), by contender
    machine: dict[str, Any]


Announce = Callable[[str, int, int], None]  # what runs now, rounds done, rounds in all


def measure(
    contenders: Sequence[Contender],
    workload: Workload,
    *,
    runs: int,
    warmup: int,
    scratch: Path,
    announce: Announce = lambda what, done, total: None,
) -> Results:
    """Time all contenders. `scratch` receives their pictures."""
    with contextlib.ExitStack() as stack:
        announce("ceilings of this machine", 0, 1)
        probe = stack.enter_context(Worker("probe"))
        machine = probe.ask("machine", device=workload.device)
        workers = {c.name: stack.enter_context(Worker(c.name, scratch)) for c in contenders}
        started = {
            c.name: workers[c.name].ask("start", contender=c.to_json(), workload=workload.to_json())
            for c in contenders
        }
        timings = {name: Timings() for name in workers}
        interleaved = {}
        for part in PARTS:
            interleaved[part] = _fit_together(workers, part)
            groups = [list(workers)] if interleaved[part] else [[name] for name in workers]
            for group in groups:
                chosen = {name: workers[name] for name in group}
                _time_part(chosen, timings, part, runs, warmup, announce)
        pictures: dict[str, Path] = {}
        for name, worker in workers.items():
            timings[name].facts = worker.ask("facts")
            pictures[name] = scratch / f"{len(pictures)}.npy"
            worker.ask("save_picture", path=str(pictures[name]))
        # Others use the machine too: what it can do is the better of before and after.
        after = probe.ask("machine", device=workload.device)["ceilings"]
        machine["ceilings"] = {k: max(v, after[k]) for k, v in machine["ceilings"].items()}
    return Results(
        timings=timings,
        started=started,
        interleaved=interleaved,
        pictures=pictures,
        machine=machine,
    )


def _fit_together(workers: dict[str, Worker], part: str) -> bool:
    needed = sum(worker.ask("needs", part=part) for worker in workers.values())
    free = next(iter(workers.values())).ask("free")
    return len(workers) == 1 or free is None or needed <= _MARGIN * free


def _time_part(
    workers: dict[str, Worker],
    timings: dict[str, Timings],
    part: str,
    runs: int,
    warmup: int,
    announce: Announce,
) -> None:
    for name, worker in workers.items():
        announce(f"{part}: {name} loads", 0, runs)
        timings[name].load[part] = worker.ask("open", part=part)
    for i in range(warmup + runs):
        for name in _in_turns(list(workers), i):
            announce(f"{part}: {name}", max(0, i - warmup), runs)
            answer = workers[name].ask("run", part=part)
            if i == 0:
                timings[name].first |= answer["seconds"]
            if i >= warmup:
                for stage, seconds in answer["seconds"].items():
                    timings[name].runs.setdefault(stage, []).append(seconds)
                timings[name].cpu.setdefault(part, []).append(answer["cpu_seconds"])
                if answer["joules"] is not None:
                    timings[name].joules.setdefault(part, []).append(answer["joules"])
    for worker in workers.values():
        worker.ask("close", part=part)


def _in_turns(names: list[str], round_number: int) -> Iterator[str]:
    """Forwards and backwards: whoever runs second profits from it every other time."""
    return iter(names if round_number % 2 == 0 else names[::-1])
