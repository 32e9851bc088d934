"""Run `sana` as a process of its own that writes down when its stages begin: where the milliseconds of a picture go.

`python benchmarks/startup_marks.py FILE generate ...`. FILE gets one JSON object: mark -> seconds since 1970, and of the
main thread's processor. Nothing of ours is imported before the command imports it, so that the times are those of `sana`.
"""

import atexit
import functools
import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

_found: dict[str, tuple[float, float]] = {}

# Marks by the module whose import begins then, and by the function that is called for the first time.
_IMPORTS = {
    "sana_cli.cli": "python runs",
    "sana_cli.commands.generate_session": "options are checked",
    "torch._utils": "torch is imported",  # what torch imports first; its own name is looked up before
    "sana_cli.pipeline.pipeline": "torch is there",
    "sana_cli.pipeline.saving": "pipeline is there",
}
_BEGINS = "sana_cli.cli"
_WHEN_READY = "sana_cli.pipeline.saving"  # all that is watched is imported by then
_CALLS = (
    ("sana_cli.models.sana_transformer", "SanaTransformer2D.velocity", "first step begins", "first step is done"),
    ("sana_cli.pipeline.drawing", "decode_latents", "decoding begins", "picture is decoded"),
    ("sana_cli.pipeline.results", "GenerationResult.save", "saving begins", "picture is saved"),
)  # fmt: skip


def mark(name: str) -> None:
    """Write down the first time that something happens."""
    _found.setdefault(name, (time.time(), time.thread_time()))


class _Watch:
    """Sees every import that begins; finds nothing."""

    def __init__(self, file: str) -> None:
        self._file = file

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == _BEGINS:
            # Not earlier: the command registers first what ends the process, and it runs last.
            atexit.register(_write, self._file)
        if name in _IMPORTS:
            mark(_IMPORTS[name])
        if name == _WHEN_READY:
            for module, function, begins, ends in _CALLS:
                _watch(importlib.import_module(module), function, begins, ends)


def _watch(owner: Any, name: str, begins: str, ends: str) -> None:
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, last)

    @functools.wraps(function)
    def watched(*arguments: Any, **named: Any) -> Any:
        mark(begins)
        try:
            return function(*arguments, **named)
        finally:
            mark(ends)

    setattr(owner, last, watched)


def _write(file: str) -> None:
    mark("process ends")
    with open(file, "w", encoding="utf-8") as out:
        json.dump(_found, out)


def main() -> None:
    """Run the command that the arguments after the first one are."""
    file = sys.argv.pop(1)
    sys.path.pop(0)  # this folder, whose modules have names of others
    sys.meta_path.insert(0, _Watch(file))
    from sana_cli.__main__ import run

    run()


if __name__ == "__main__":
    main()
