"""`sana generate --dry-run`: what a request would take in memory, stage by stage. No torch without a GPU."""

from typing import TYPE_CHECKING, Any

from sana_cli.output import counted, readable_memory
from sana_cli.text import print_json, say

if TYPE_CHECKING:
    from sana_cli.checkpoint import Checkpoint
    from sana_cli.memory.predict import StagePeak
    from sana_cli.precision import Device
    from sana_cli.request import Request

_COLUMNS = ("weights", "activations", "workspace", "host", "total")


def print_forecast(
    checkpoint: "Checkpoint", request: "Request", where: "Device", *, json: bool
) -> None:
    """A table for people, or one JSON document; errors as the run itself would raise them."""
    from sana_cli.bench.recorded import foretell
    from sana_cli.memory.choose import choose_for
    from sana_cli.precision import plan_dtypes
    from sana_cli.prompt_cache import PromptCache
    from sana_cli.request import resolve

    settings = resolve(request, checkpoint)
    dtypes = plan_dtypes(request.precision, checkpoint.trained_precision, where)
    if settings.loras:
        from sana_cli.loading import check_loras

        check_loras(checkpoint, settings.loras)
    cache = PromptCache.of(
        checkpoint, precision=dtypes.text_encoder, device=where.type, backend=request.backend
    )
    cached = request.prompt_cache and cache.holds(settings)
    choice = choose_for(
        checkpoint, request, settings, dtypes, where,
        several=request.count > 1, text_is_cached=cached,
    )  # fmt: skip
    seconds = foretell(
        checkpoint, settings, str(dtypes), where.type, text_is_cached=cached
    )  # fmt: skip
    facts = {
        "model": checkpoint.name,
        "size": f"{settings.drawn_width}x{settings.drawn_height}",
        "count": request.count,
        "steps": settings.steps,
        "precision": str(dtypes),
        "device": where.type,
        "prompt_cached": cached,
        "plan": str(choice.plan),
        "reason": choice.reason,
        "peak_bytes": choice.peak.total,
        "cap_bytes": choice.cap.bytes,
        "seconds": seconds,
    }
    if json:
        stages = [{"stage": stage.stage, **_bytes(stage)} for stage in choice.stages]
        print_json({"dry_run": True, **facts, "stages": stages})
        return
    count, steps = counted(request.count, "picture"), counted(settings.steps, "step")
    say(f"{checkpoint.name}  {facts['size']}  {count}  {steps}  {dtypes}  {where.type}")
    say(f"plan: {choice.plan}; {choice.reason}")
    if cached:
        say("the prompt is in the cache: no text encoder")
    say(f"{'MiB':<10}" + "".join(f"{name:>13}" for name in _COLUMNS))
    for stage in choice.stages:
        cells = "".join(f"{value / 2**20:>13.0f}" for value in _bytes(stage).values())
        say(f"{stage.stage:<10}{cells}")
    say(f"peak {readable_memory(choice.peak.total)} ({choice.peak.stage}); {choice.cap}")
    streams = choice.plan.streams_blocks or (choice.plan.streams_text and not cached)
    say(_time(seconds, checkpoint.name, request.count, streams=streams))


def _bytes(stage: "StagePeak") -> dict[str, Any]:
    return {name: getattr(stage, name) for name in _COLUMNS}


def _time(seconds: "dict[str, Any] | None", model: str, count: int, *, streams: bool) -> str:
    """What a measurement of this model on this machine lets expect."""
    if seconds is None:
        return f"time unknown: `sana bench --model {model}` measures it once"
    measured = seconds["measured"]
    stages = {part: value for part, value in seconds.items() if part != "measured"}
    total = sum(stages.values()) + (count - 1) * (seconds["denoise"] + seconds["decode"])
    parts = ", ".join(f"{part} {value:.1f}" for part, value in stages.items())
    longer = "; streaming takes longer" if streams else ""
    return f"about {total:.1f} s ({parts}), by `sana bench` of {measured}{longer}"
