"""Recovery of a failed stage: smaller plans when memory runs out, fp32 when values break, one error at the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from sana_cli.errors import ExitCode, SanaError, checkpoint_error, is_out_of_memory
from sana_cli.memory.planner import Cap
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.planning import Stage
from sana_cli.pipeline.values import BrokenValues
from sana_cli.system.precision import SAFEST
from sana_cli.system.torch_memory import release_memory

_T = TypeVar("_T")
_REMEDIES = "draw a smaller --size, close other programs, or use a smaller model"


def retrying(
    components: Components, stage: Stage, work: Callable[[], _T], *, doing: str = ""
) -> _T:
    """Do the work; out of memory, do it again under the next smaller plan. `doing` names it if `stage` does not.

    Raises the last error when no plan is left.
    """
    while True:
        try:
            return work()
        except (MemoryError, RuntimeError, OSError) as error:
            message = (
                _step_down(components, stage, doing or stage) if is_out_of_memory(error) else ""
            )
            if not message:
                raise
        # Outside of the handler, where the error no longer holds what the stage had allocated.
        components.reporter.notice(message)
        release_memory(components.device)


def _step_down(components: Components, stage: Stage, doing: str) -> str:
    """Take the next smaller plan and say so; "" when nothing is left to try."""
    planning, before = components.planning, components.plan.decode
    if stage == "decode" and components.make_room_for_decoder():
        return f"out of memory: decode {before}; trying without the transformer"
    if not planning.step_down(stage):
        return ""
    if stage in ("encode", "decode"):
        return f"out of memory: {stage} {before}; trying {planning.plan.decode}"
    components.evict()
    return f"out of memory: {doing}; trying {planning.plan}"


def in_fp32_if_broken(components: Components, stage: Callable[[], _T]) -> _T:
    """Run a stage; if its values are broken, once more with everything in fp32: the usual cause is a 16-bit overflow.

    SanaError if that does not help.
    """
    try:
        return stage()
    except BrokenValues as broken:
        if components.dtypes == SAFEST:
            raise _no_picture(broken) from broken
        reason = str(broken)
    # Outside of the handler, for the same reason as in `retrying`.
    components.reporter.notice(f"{reason} in {components.dtypes}; trying once more in fp32")
    components.dtypes = SAFEST
    components.evict()
    if components.params is not None:
        components.plan_for(components.params)
    try:
        return stage()
    except BrokenValues as broken:
        raise _no_picture(broken) from broken


def _no_picture(broken: BrokenValues) -> SanaError:
    return checkpoint_error(
        f"no picture: {broken}, in fp32",
        hint="the weights are probably damaged; download the model again",
    )


@contextmanager
def within_cap(
    components: Components, width: int, height: int, *, remedies: str = _REMEDIES
) -> Iterator[None]:
    """Cap allocations on a CUDA device within the block. Raises SanaError when memory runs out.

    `width` and `height`: of the picture, in pixels. `remedies`: hints to show with that for a higher cap.
    """
    with (
        held_to(components.planning.cap, components.device) as held,
        translate_out_of_memory(width, height, held=held, remedies=remedies),
    ):
        yield


@contextmanager
def held_to(cap: Cap, device: torch.device) -> Iterator[Cap | None]:
    """Let allocations on a CUDA device fail beyond a cap that was asked for, so that a smaller plan is tried.

    Yields the cap, or None where nothing is held to one; afterwards the process is as before.
    """
    if device.type != "cuda" or not cap.asked or not cap.bytes:
        yield None
        return
    whole = torch.cuda.get_device_properties(device).total_memory
    before = torch.cuda.get_per_process_memory_fraction(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, cap.bytes / whole), device)
    try:
        yield cap
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


@contextmanager
def translate_out_of_memory(
    width: int, height: int, *, held: Cap | None = None, remedies: str = _REMEDIES
) -> Iterator[None]:
    """Turn every form of "no memory left" into one SanaError; `held` is the cap that allocations were held to."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise SanaError(
            f"out of memory at {width}x{height}" + (f", {held}" if held else ""),
            hint=f"give a higher --max-memory, {remedies}" if held else remedies,
            code=ExitCode.ENVIRONMENT,
        ) from error
