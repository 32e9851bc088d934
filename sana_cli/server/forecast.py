"""Say before a picture waits whether memory allows it: the plan of `--dry-run`, under the server's cap. No torch without a GPU."""

from dataclasses import dataclass, replace

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError, usage_error
from sana_cli.memory.forecast import MIB, describe
from sana_cli.memory.planner import SERVERS_CAP, choose_for, smallest_peak
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.request.runtime import RuntimeOptions, runtime_of
from sana_cli.server.served_models import ServedModels
from sana_cli.system.precision import foresee_device, plan_dtypes
from sana_cli.text import readable_memory

# What a server holds in addition to a picture and its model: HTTP, requests and answers on their way, kernels of every
# model that it drew with, and what the heap does not give back when models take turns. Of two models that evict each
# other it was 16 to 28 MiB, at 64 and 512 pixels.
RESERVED = 40 * MIB
_SMALLEST = GenerationOptions(prompt="-", width=32, height=32)
_USUAL = GenerationOptions(prompt="word " * 300)  # as long a prompt as a text encoder takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Capped:
    """Runtime options with the cap that holds for a request, the place that set it, and what the process needs itself."""

    runtime: RuntimeOptions
    source: str
    reserved: int

    @classmethod
    def of(cls, runtime: RuntimeOptions, cap: int | None) -> "Capped":
        """`cap` is the server's. A request's own is for its picture alone, as the command's is."""
        asked = runtime.max_memory
        if cap is None or (asked is not None and asked <= cap - RESERVED):
            return cls(runtime=runtime, source="", reserved=0)
        return cls(runtime=replace(runtime, max_memory=cap), source=SERVERS_CAP, reserved=RESERVED)


def require_plan(
    checkpoint: Checkpoint, runtime: RuntimeOptions, params: GenerationParams, cap: int | None
) -> None:
    """SanaError where no plan fits under the request's or the server's cap, or the device or precision is none here."""
    device, capped = foresee_device(runtime.device), Capped.of(runtime, cap)
    choose_for(
        checkpoint, capped.runtime, params,
        plan_dtypes(runtime.precision, checkpoint.trained_precision, device), device,
        cap_source=capped.source, several=True, text_is_cached=False, warm=True, reserved=capped.reserved,
    )  # fmt: skip


def require_room(models: ServedModels, cap: int | None) -> None:
    """SanaError (usage) where no model can draw the smallest picture under the server's cap."""
    if cap is None:
        return
    usual: dict[str, int] = {}
    for served in models.names():
        try:
            checkpoint = models.open(served.name)
            if _least_bytes(checkpoint, _SMALLEST) <= cap:
                return
            usual[served.name] = _least_bytes(checkpoint, _USUAL)
        except SanaError:
            continue  # a request gets the reason
    if usual:
        name = min(usual, key=lambda name: usual[name])
        least = readable_memory(usual[name], at_least=True).replace(" ", "")
        raise usage_error(
            f"no model of this server can draw a picture under --max-memory {readable_memory(cap)}",
            f"use --max-memory {least} or more, which is enough for {name} at its usual size",
        )


def _least_bytes(checkpoint: Checkpoint, options: GenerationOptions) -> int:
    runtime = runtime_of(options, checkpoint)
    device = foresee_device(runtime.device)
    job = describe(
        checkpoint, resolve(options, checkpoint),
        plan_dtypes(runtime.precision, checkpoint.trained_precision, device), device,
        several=True, warm=True, reserved=RESERVED,
    )  # fmt: skip
    return smallest_peak(job).total
