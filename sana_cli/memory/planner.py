"""Choose the fastest plan whose prediction fits. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.config.choices import DecodeMode
from sana_cli.errors import SanaError, usage_error
from sana_cli.memory.forecast import MIB, Job, StagePeak, describe, peak, predict, predict_decode
from sana_cli.memory.plans import NAMED, DecodePlan, Plan, decode_plans
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.memory import free_bytes, held_bytes
from sana_cli.system.precision import Device, DtypePlan
from sana_cli.text import readable_memory

_MARGIN = 0.9  # of the free memory: others allocate too
# What a run takes on a GPU without asking torch: handles and workspaces of cuBLAS and cuDNN, code of kernels, graphs. An
# estimate: no device has been measured.
_CUDA_LIBRARIES = 400 * MIB
SERVERS_CAP = "the server's `--max-memory`"  # a cap's source: only the server's command raises it


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The most that a run may take. `asked` is what a person set, not what happens to be free."""

    bytes: int | None  # None: the system does not report what is free
    asked: bool = False
    source: str = ""  # where it is set, if nobody typed it

    def holds(self, stage: StagePeak) -> bool:
        return self.bytes is None or stage.total <= self.bytes

    @property
    def amount(self) -> str:
        where = f", set by {self.source}" if self.source else ""
        return f"{readable_memory(self.bytes or 0)}{where}"

    def __str__(self) -> str:
        if self.bytes is None:
            return "no limit known"
        return f"limit {self.amount}" + ("" if self.asked else " (free memory minus 10 %)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A plan, what it will take, and why it was chosen."""

    job: Job
    plan: Plan
    stages: list[StagePeak]
    cap: Cap
    reason: str
    is_usual: bool  # nobody asked for a cap, and without one the plan is always this

    @property
    def peak(self) -> StagePeak:
        return peak(self.stages)

    @property
    def spare(self) -> int | None:
        """Bytes under the cap that it leaves at every time; None if no limit is known."""
        return None if self.cap.bytes is None else max(0, self.cap.bytes - self.peak.total)

    def __str__(self) -> str:
        worst = f"{readable_memory(self.peak.total)} ({self.peak.stage})"
        return f"plan: {self.plan}; {self.reason}; predicted peak {worst}, {self.cap}"


def cap_of(device: Device, asked: int | None, source: str = "") -> Cap:
    """The cap that was asked for, else what is free. `source` is where it is set, if nobody typed it."""
    if asked is not None:
        return Cap(bytes=asked, asked=True, source=source)
    free = free_bytes(device)
    if free is None:
        return Cap(bytes=None)
    libraries = _CUDA_LIBRARIES if device.type == "cuda" else 0
    return Cap(bytes=max(0, int(_MARGIN * (free + held_bytes(device))) - libraries))


def choose_for(
    checkpoint: Checkpoint,
    runtime: RuntimeOptions,
    params: GenerationParams,
    dtypes: DtypePlan,
    device: Device,
    *,
    cap_source: str = "",
    several: bool,
    text_is_cached: bool,
    warm: bool = False,
    reserved: int = 0,
) -> MemoryPlan:
    """The plan of a picture, one of `several` or the only one; errors as for `choose`.

    `cap_source` is where the cap is set, if nobody typed it. `warm` is for pictures that are asked for one after the
    other, each with a text that nobody knows before. `reserved`: as for `describe`.
    """
    job = describe(
        checkpoint, params, dtypes, device,
        several=several, text_is_cached=text_is_cached and not warm, warm=warm,
        reserved=reserved,
    )  # fmt: skip
    return choose(
        job,
        cap_of(device, runtime.max_memory, cap_source),
        name=runtime.plan,
        mode=runtime.decode,
        tile=runtime.tile,
        branches_apart=runtime.branches_apart,
    )


def smallest_peak(job: Job) -> StagePeak:
    """Return the peak of the leanest plan, whatever time it takes."""
    plans = _candidates(
        job, decode_plans("auto", None, job.height, job.width), None, branches_apart=False
    )
    return min((peak(predict(job, plan)) for plan in plans), key=lambda stage: stage.total)


def choose_decode(
    checkpoint: Checkpoint,
    precision: str,
    device: Device,
    cap: Cap,
    *,
    height: int,
    width: int,
    mode: DecodeMode,
    tile: int | None,
    size: tuple[int, int] | None = None,
) -> tuple[DecodePlan, StagePeak, str]:
    """Choose how to decode existing latents: the fastest plan that fits, its peak, and a notice or
    "".

    `size` is the finished picture's width and height, if it differs from the decoded `width` and
    `height`.
    """

    def ways(mode: DecodeMode, tile: int | None) -> list[tuple[DecodePlan, StagePeak]]:
        return [
            (plan, predict_decode(checkpoint, plan, height, width, precision, device, size=size))
            for plan in decode_plans(mode, tile, height, width)
        ]

    left = ways(mode, tile)
    found = next((way for way in left if cap.holds(way[1])), None)
    if found is None:
        if cap.asked:
            limit = f"decode {left[0][0]}" if len(left) == 1 else ""
            stages, others = ([s for _, s in some] for some in (left, ways("auto", None)))
            raise _nothing_fits(cap, limit, stages, others, "--decode auto")
        found = left[-1]
    plan, stage = found
    usual = plan == left[0][0] and not cap.asked
    notice = f"plan: decode {plan}; predicted peak {readable_memory(stage.total)}, {cap}"
    return plan, stage, "" if usual else notice


def choose(
    job: Job,
    cap: Cap,
    *,
    name: str | None,
    mode: DecodeMode,
    tile: int | None,
    branches_apart: bool = False,
) -> MemoryPlan:
    """Choose the fastest plan that fits under the cap, among those that the options allow.

    `branches_apart` allows only plans with guidance in two passes. Raises SanaError when none fits a cap
    that was asked for. Without such a cap the leanest is tried: a prediction is no reason to
    refuse.
    """
    decodes = decode_plans(mode, tile, job.height, job.width)
    without_effect = name == "branches" and job.branches == 1
    plans = _candidates(
        job,
        decodes,
        "stages" if without_effect else name,
        branches_apart=branches_apart and job.branches == 2,
    )
    reason = "chosen by --plan" if name else "the fastest that fits"
    if without_effect:
        reason = "--plan branches is --plan stages here: there is one branch"
    for plan in plans:
        stages = predict(job, plan)
        if cap.holds(peak(stages)):
            usual = plan == replace(plans[0], together=plan.together, keeps_text=plan.keeps_text)
            return MemoryPlan(
                job=job, plan=plan, stages=stages, cap=cap, reason=reason,
                is_usual=usual and not cap.asked and not without_effect,
            )  # fmt: skip
    if cap.asked:
        named = [f"plan {name}"] if name else []
        tiled = [f"decode {decodes[0]}"] if len(decodes) == 1 else []
        everything = _candidates(
            job, decode_plans("auto", None, job.height, job.width), None, branches_apart=False
        )
        raise _nothing_fits(
            cap,
            ", ".join(named + tiled),
            [peak(predict(job, plan)) for plan in plans],
            [peak(predict(job, plan)) for plan in everything],
            " and ".join(["--plan auto"] * len(named) + ["--decode auto"] * len(tiled)),
            ", a smaller --size or a quantized model",
        )
    smallest, stages = min(
        ((plan, predict(job, plan)) for plan in reversed(plans)),
        key=lambda pair: (peak(pair[1]).total, sum(stage.total for stage in pair[1])),
    )
    reason = f"{reason if name else 'the smallest'}, and it may not be enough"
    return MemoryPlan(job=job, plan=smallest, stages=stages, cap=cap, reason=reason, is_usual=False)


def _candidates(
    job: Job, decodes: list[DecodePlan], name: str | None, *, branches_apart: bool
) -> list[Plan]:
    """Plans, the fastest first. Stages are never in memory together, so each takes the first that may fit."""
    if name is not None:
        return [replace(NAMED[name], decode=decode) for decode in decodes]
    resident = Plan(branches_apart=branches_apart, decode=decodes[0])
    plans = [replace(resident, keeps_text=True)] if job.warm else []
    plans += [resident] if job.several else []
    branches = (True,) if branches_apart else (False, True) if job.branches == 2 else (False,)
    plans += [
        Plan(
            together=False,
            streams_text=streams_text,
            streams_blocks=streams_blocks,
            branches_apart=branches_apart,
            decode=decode,
        )
        for streams_blocks in (False, True)
        for branches_apart in branches
        for decode in decodes
        for streams_text in (False, True)
    ]
    return plans


def _nothing_fits(
    cap: Cap,
    limit: str,
    left: Iterable[StagePeak],
    others: Iterable[StagePeak],
    without: str,
    more: str = "",
) -> SanaError:
    """Explain that no plan fits.

    `left` are the peaks of the plans that the options allow, which `limit` names; `others` are the
    peaks of the plans `without` these options. `more` adds remedies.
    """
    needed, least = (min(peaks, key=lambda stage: stage.total) for peaks in (left, others))
    enough = readable_memory(needed.total, at_least=True)
    takes, option = f"{enough} ({needed.stage})", f"--max-memory {enough.replace(' ', '')}"
    is_servers = cap.source == SERVERS_CAP
    hint = f"start the server with `sana serve {option}`" if is_servers else f"use {option}"
    if cap.bytes is not None and needed.host >= cap.bytes:
        hint, more = f"{hint}: Python and torch alone take {readable_memory(needed.host)}", ""
    if limit:
        smallest = readable_memory(least.total, at_least=True)
        if least.total < needed.total:
            hint += f", or {without}: the smallest plan needs {smallest}"
        said, more = f"{limit} needs {takes}, {cap}", ""
    else:
        said = f"no plan fits into {cap.amount}: the smallest needs {takes}"
    here = "; --local draws without it" if is_servers else ""
    return usage_error(said, hint + more + here)
