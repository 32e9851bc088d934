"""A worker that one of its tasks kills, as running out of memory does."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence

from sana_cli.cluster.tasks import Outcome, Task


class Poisoned:
    def __init__(self, setup: object) -> None:
        del setup

    def __call__(self, block: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
        for text in block["task"]:
            task = Task.from_json(str(text))
            if task.name == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            outcome = Outcome(index=task.index, status="drawn", node="n")
            yield {"outcomes": [outcome.to_json()]}
