"""`sana generate --dry-run`: what a request would take in memory, stage by stage. No torch without a GPU."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sana_cli.text import counted, print_json, readable_bytes, readable_memory, say

if TYPE_CHECKING:
    from sana_cli.checkpoints.checkpoint import Checkpoint
    from sana_cli.memory.forecast import StagePeak
    from sana_cli.memory.planner import MemoryPlan
    from sana_cli.pipeline.batch import Batch, Job
    from sana_cli.request.params import GenerationParams
    from sana_cli.request.runtime import RuntimeOptions
    from sana_cli.system.precision import Device

_COLUMNS = ("weights", "activations", "workspace", "host", "total")


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Predicted memory and time of one picture, or of several similar ones."""

    facts: dict[str, Any]
    choice: "MemoryPlan"
    cached: bool  # the encoded prompt is on disk
    seconds: dict[str, Any] | None  # of one picture by stage; None: never measured here

    @classmethod
    def of(
        cls,
        checkpoint: "Checkpoint",
        params: "GenerationParams",
        runtime: "RuntimeOptions",
        where: "Device",
        *,
        count: int,
        cap_source: str,
    ) -> "Forecast":
        """Predict a run; raises its errors. `count`: number of all pictures, which decides which parts stay loaded."""
        from sana_cli.bench.history import foretell
        from sana_cli.memory.planner import choose_for
        from sana_cli.pipeline.prompt_cache import PromptCache
        from sana_cli.system.precision import plan_dtypes

        dtypes = plan_dtypes(runtime.precision, checkpoint.trained_precision, where)
        if params.loras:
            from sana_cli.loading.load import check_loras

            check_loras(checkpoint, params.loras)
        cache = PromptCache.wanted(
            checkpoint, runtime, precision=dtypes.text_encoder, device=where.type
        )
        cached = cache is not None and cache.holds(params)
        choice = choose_for(
            checkpoint, runtime, params, dtypes, where,
            cap_source=cap_source, several=count > 1, text_is_cached=cached,
        )  # fmt: skip
        seconds = foretell(
            checkpoint, params, str(dtypes), where.type, text_is_cached=cached
        )  # fmt: skip
        facts = {
            "model": checkpoint.name,
            "size": f"{params.drawn_width}x{params.drawn_height}",
            "count": count,
            "steps": params.steps,
            "precision": str(dtypes),
            "device": where.type,
            "prompt_cached": cached,
            "plan": str(choice.plan),
            "reason": choice.reason,
            "peak_bytes": choice.peak.total,
            "cap_bytes": choice.cap.bytes,
            "seconds": seconds,
            "download_bytes": checkpoint.absent.download_bytes if checkpoint.absent else 0,
        }
        return cls(facts=facts, choice=choice, cached=cached, seconds=seconds)

    @property
    def document(self) -> dict[str, Any]:
        stages = [{"stage": stage.stage, **_bytes(stage)} for stage in self.choice.stages]
        return {**self.facts, "stages": stages}

    @property
    def streams(self) -> bool:
        plan = self.choice.plan
        return plan.streams_blocks or (plan.streams_text and not self.cached)

    def print(self) -> None:
        """A table for people."""
        facts, choice = self.facts, self.choice
        count, steps = counted(facts["count"], "picture"), counted(facts["steps"], "step")
        say(
            f"{facts['model']}  {facts['size']}  {count}  {steps}  {facts['precision']}  {facts['device']}"
        )
        say(f"plan: {choice.plan}; {choice.reason}")
        if self.cached:
            say("the prompt is in the cache: no text encoder")
        widest = max(9, *(len(stage.stage) for stage in choice.stages)) + 1
        say(f"{'MiB':<{widest}}" + "".join(f"{name:>13}" for name in _COLUMNS))
        for stage in choice.stages:
            cells = "".join(f"{value / 2**20:>13.0f}" for value in _bytes(stage).values())
            say(f"{stage.stage:<{widest}}{cells}")
        say(f"peak {readable_memory(choice.peak.total)} ({choice.peak.stage}); {choice.cap}")


def print_forecast(
    checkpoint: "Checkpoint",
    params: "GenerationParams",
    runtime: "RuntimeOptions",
    where: "Device",
    *,
    count: int,
    cap_source: str,
    json: bool,
) -> None:
    """A table for people, or one JSON document; errors as the run itself would raise them."""
    forecast = Forecast.of(checkpoint, params, runtime, where, count=count, cap_source=cap_source)
    if json:
        print_json({"dry_run": True, **forecast.document})
        return
    _tell_download(checkpoint)
    if params.template is not None:
        say(f"prompt: {params.prompt}")
    forecast.print()
    if forecast.seconds is None:
        say(_unmeasured(checkpoint, params))
        return
    once = ("load", "text") if params.upscale else ("load", "text", "encode")
    say(_time(forecast.seconds, count, streams=forecast.streams, once=once))


def print_batch_forecast(
    checkpoint: "Checkpoint",
    batch: "Batch",
    runtime: "RuntimeOptions",
    where: "Device",
    *,
    cap_source: str,
    json: bool,
) -> None:
    """Print the number of pending pictures, the memory of the largest one and the time of all.

    Raises SanaError at the end if some lines cannot be drawn.
    """
    from sana_cli.request.prompt_file import summed_up
    from sana_cli.terminal.batch_report import error_facts, place_facts

    pending = batch.pending
    alike: dict[tuple[object, ...], list[Job]] = {}
    for job in pending:
        alike.setdefault(job.cost, []).append(job)
    forecasts = [
        (
            len(jobs),
            Forecast.of(
                checkpoint,
                jobs[0].params,
                runtime,
                where,
                count=len(pending),
                cap_source=cap_source,
            ),
        )
        for jobs in alike.values()
    ]
    largest = max((f for _, f in forecasts), key=lambda f: f.choice.peak.total, default=None)
    seconds = _batch_seconds(forecasts)
    if json:
        print_json({
            "dry_run": True, "model": checkpoint.name,
            "pictures": len(batch.jobs), "done": len(batch.done), "to_draw": len(pending),
            "errors": [
                {**place_facts(p.place), "id": p.id, "error": error_facts(p.error)} for p in batch.problems
            ],
            "seconds": seconds, "largest": largest.document if largest else None,
        })  # fmt: skip
    else:
        _tell_download(checkpoint)
        count = counted(len(batch.jobs), "picture")
        say(f"{count}, {len(batch.done)} done, {len(pending)} to draw")
        for problem in batch.problems:
            say(f"not drawn: {problem.error.message}")
        if largest:
            say("the largest:" if len(forecasts) > 1 else "each:")
            largest.print()
            say(
                f"time: about {duration(seconds)} for all"
                if seconds is not None
                else _unmeasured(checkpoint, pending[0].params)
            )
    if batch.problems:
        raise summed_up(batch.problems)


def _tell_download(checkpoint: "Checkpoint") -> None:
    """Report the size of a missing model's download, and the source of the plan."""
    if checkpoint.absent is not None:
        size = readable_bytes(checkpoint.absent.download_bytes)
        say(f"not here: {size} to download; planned from {checkpoint.absent.source}")


def _batch_seconds(forecasts: "list[tuple[int, Forecast]]") -> float | None:
    """Add up the seconds of one load and of every picture's stages; None if a part was never measured."""
    total = 0.0
    for count, forecast in forecasts:
        if forecast.seconds is None:
            return None
        stages = {k: v for k, v in forecast.seconds.items() if k not in ("measured", "load")}
        total += count * sum(stages.values())
    loads = [f.seconds["load"] for _, f in forecasts if f.seconds is not None]
    return total + max(loads, default=0.0)


def _bytes(stage: "StagePeak") -> dict[str, Any]:
    return {name: getattr(stage, name) for name in _COLUMNS}


def duration(seconds: float) -> str:
    """Write seconds for people: 12.3 s, 39 min, 2 h 5 min."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _unmeasured(checkpoint: "Checkpoint", params: "GenerationParams") -> str:
    """Say what measures the time of a model that was never measured here; of one that is to be downloaded, also what to expect."""
    from sana_cli.checkpoints.opening import argument_for
    from sana_cli.config.variants import VARIANTS

    bench = f"`sana bench --model {shlex.quote(argument_for(checkpoint))}`"
    if checkpoint.absent is None:
        return f"time: unknown until {bench} has run once"
    from sana_cli.bench.history import ELSEWHERE, seconds_elsewhere

    there = duration(sum(seconds_elsewhere(checkpoint, params).values()))
    remedy = f"{bench} measures it after the download"
    if checkpoint.name in VARIANTS:
        size = readable_bytes(sum(VARIANTS[checkpoint.name].download_bytes.values()))
        remedy = (
            f"`sana bench --random {checkpoint.name}` measures it with {size} of random weights"
        )
    return f"time: about {there} a picture on {ELSEWHERE}, not measured here: {remedy}"


def _time(seconds: dict[str, Any], count: int, *, streams: bool, once: tuple[str, ...] = ()) -> str:
    """Describe the expected time, by a measurement of this model on this machine. `once`: stages that all pictures share."""
    measured = seconds["measured"]
    stages = {part: value for part, value in seconds.items() if part != "measured"}
    total = sum(stages.values())
    total += (count - 1) * sum(v for part, v in stages.items() if part not in once)
    parts = ", ".join(f"{part} {value:.1f}" for part, value in stages.items())
    longer = "; streaming takes longer" if streams else ""
    return f"time: about {duration(total)} ({parts} s), by `sana bench` of {measured}{longer}"
