"""Rows that travel between the driver and its workers: a small one for each picture, either way, as JSON. No torch.

A row holds the options of a picture, not its parameters: a worker resolves them against the model and the files that it
sees itself, and compares the outcome with what was planned. Pixels never travel; workers write the files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from sana_cli.config.generation import FIELDS, GenerationOptions
from sana_cli.errors import ExitCode, SanaError
from sana_cli.pipeline.batch import Job

Status = Literal["drawn", "done", "error"]  # done: another process, or an earlier attempt, drew it
# Pictures; a worker's share of the batch comes in pieces, of which each takes Ray 20 ms of processor time.
_LARGEST_TASK, _TASKS_A_WORKER = 64, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A picture to draw: where its file goes, its options, and a digest of the settings that the file will carry."""

    index: int
    place: str  # in the file of prompts, for messages
    name: str  # an absolute path, or a name under the URL of the output
    options: Mapping[str, Any]
    planned: str

    @classmethod
    def of(cls, job: Job, common: GenerationOptions, name: str) -> Self:
        """Write a planned picture down. Its prompt is chosen already: braces in it are words."""
        options = replace(
            job.line.options.over(common),
            prompt=job.params.prompt, template=job.params.template, seed=job.params.seed,
            wildcards=False, wildcards_folder=None, count=None, output=None, format=None,
        )  # fmt: skip
        said = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
        return cls(
            index=job.index, place=str(job.line.place), name=name, options=said,
            planned=settings_digest(job.wanted),
        )  # fmt: skip

    @property
    def generation_options(self) -> GenerationOptions:
        said: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.options.items()
        }
        return GenerationOptions(**said)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a task. `seconds` by stage, empty unless this attempt drew it; `sha256` is that of the file."""

    index: int
    status: Status
    node: str
    process: int = 0
    sha256: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # as reports of a picture want them
    error: dict[str, Any] | None = None  # code, message, hint

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))

    @property
    def failure(self) -> SanaError | None:
        """The error as it was on the worker, with the worker's node; None for a picture that is there."""
        if self.error is None:
            return None
        where = f" (on {self.node})" if self.node else ""
        return SanaError(
            f"{self.error['message']}{where}",
            hint=self.error["hint"],
            code=ExitCode(self.error["code"]),
        )


def settings_digest(wanted: Mapping[str, Any]) -> str:
    """Return a digest of a picture's settings that two machines can compare."""
    text = json.dumps(wanted, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def blocks_of(tasks: Sequence[Task], workers: int) -> list[Sequence[Task]]:
    """Divide a batch into blocks, of which a worker takes one at a time.

    Texts of a block are encoded together, so it should not be tiny; a worker that is lost leaves its block to another,
    and the last blocks decide how long some workers wait for others, so it should not be large. Blocks therefore become
    smaller towards the end, down to one picture.
    """
    blocks: list[Sequence[Task]] = []
    start = 0
    while start < len(tasks):
        left = len(tasks) - start
        size = min(_LARGEST_TASK, max(1, left // (_TASKS_A_WORKER * max(1, workers))))
        blocks.append(tasks[start : start + size])
        start += size
    return blocks
