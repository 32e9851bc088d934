"""Plant a fault where a user's run may have one: at its stages, on its disk. Nothing of the project is replaced."""

import errno
import itertools
import json
import os
import signal
from collections.abc import Callable, Container, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.forked import Forked

# What `at_stage` knows: before a network's weights are read, before it computes, and before a picture is written.
STAGES = ("load text", "text", "load denoise", "denoise", "load decode", "decode", "save")

# The network of each stage: its module, its class, and the folder of its weights.
_NETWORKS = {
    "text": ("sana_cli.models.gemma2", "Gemma2", "text_encoder"),
    "denoise": ("sana_cli.models.sana_transformer", "SanaTransformer2D", "transformer"),
    "decode": ("sana_cli.models.dc_ae", "AutoencoderDC", "vae"),
    "tiny": ("sana_cli.models.tiny_decoder", "TinyAutoencoder", "tiny"),
}


def at_stage(stage: str, act: Callable[[], object]) -> AbstractContextManager[Any]:
    """Within the block call `act()` whenever a run is at this stage, one of STAGES."""
    if stage == "save":
        from PIL import Image

        return mock.patch.object(Image.Image, "save", side_effect=lambda *_, **__: act())
    kind, _, part = stage.rpartition(" ")
    return (before_loading if kind else before_computing)(part, act)


@contextmanager
def before_computing(stage: str, act: Callable[[], object]) -> Iterator[None]:
    """Within the block call `act()` before each module of the network of "text", "denoise" or "decode" runs."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    def called(module: Any, inputs: Any) -> None:
        if type(module).__module__ == _NETWORKS[stage][0]:
            act()

    with register_module_forward_pre_hook(called):
        yield


@contextmanager
def before_loading(stage: str, act: Callable[[], object]) -> Iterator[None]:
    """Within the block call `act()` whenever the network of a stage was built and its weights begin to be read."""
    from torch.nn.modules.module import register_module_module_registration_hook

    _, network, folder = _NETWORKS[stage]
    opens, built = Path.open, [False]

    def registered(module: Any, name: str, child: Any) -> None:
        built[0] |= type(module).__name__ == network

    def opened(path: Path, *rest: Any, **named: Any) -> Any:
        if built[0] and path.parent.name == folder:
            built[0] = False
            act()
        return opens(path, *rest, **named)

    with (
        register_module_module_registration_hook(registered),
        mock.patch.object(Path, "open", opened),
    ):
        yield


class PTXASError(Exception):
    """An error of Triton's compiler: of no built-in kind."""


class PanicException(BaseException):
    """A panic in Rust, as pyo3 names it."""


def raising(
    error: BaseException, times: int | None = None, *, then: object = None
) -> Callable[..., Any]:
    """Make a function that raises the error, in every call or in the first `times`; others return `then`."""
    left = [times]

    def fail(*_: object, **__: object) -> object:
        if left[0] is None:
            raise error
        if left[0]:
            left[0] -= 1
            raise error
        return then

    return fail


def edit_json(path: Path, **changes: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def before_new_files(folder: Path, act: Callable[[], object]) -> Callable[..., int]:
    """`os.open` that calls `act` before it makes a new file in `folder`."""
    make = os.open

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_EXCL and Path(os.fsdecode(path)).parent == folder:
            act()
        return make(path, flags, *rest, **options)

    return open_


def full_disk(folder: Path, files: Container[int]) -> Callable[..., int]:
    """`os.open` where `folder` has no space for the new files of these numbers, the first being 1."""
    number = itertools.count(1)

    def act() -> None:
        if next(number) in files:
            raise OSError(errno.ENOSPC, "No space left on device")

    return before_new_files(folder, act)


def killed_at(stage: str, *words: object) -> None:
    """Run `sana WORDS...` in a process that is killed at this stage and can clean up nothing."""

    def work() -> int:
        from sana_cli.cli import main

        with at_stage(stage, lambda: os.kill(os.getpid(), signal.SIGKILL)):
            return main([str(word) for word in words])

    process = Forked(work)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
