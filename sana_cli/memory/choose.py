"""Choose the fastest plan whose prediction fits. No torch."""

from dataclasses import dataclass, replace

from sana_cli.checkpoint import Checkpoint
from sana_cli.errors import ExitCode, SanaError
from sana_cli.memory.budget import free_bytes, held_bytes, in_gib
from sana_cli.memory.plans import NAMED, DecodePlan, Plan, decode_plans
from sana_cli.memory.predict import Job, StagePeak, describe, peak, predict, predict_decode
from sana_cli.options import DecodeMode
from sana_cli.precision import Device, DtypePlan
from sana_cli.request import Request, Settings

_MARGIN = 0.9  # of the free memory: others allocate too


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """The most that a run may take. `asked` is what a person set, not what happens to be free."""

    bytes: int | None  # None: the system does not tell what is free
    asked: bool = False

    def holds(self, stage: StagePeak) -> bool:
        return self.bytes is None or stage.total <= self.bytes

    def __str__(self) -> str:
        if self.bytes is None:
            return "no cap is known"
        whose = "the cap" if self.asked else "the free memory less a margin"
        return f"{whose} is {in_gib(self.bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A plan, what it will take, and the notice that tells why it was chosen ("" where it is as always)."""

    job: Job
    plan: Plan
    stages: list[StagePeak]
    cap: Cap
    notice: str

    @property
    def peak(self) -> StagePeak:
        return peak(self.stages)

    @property
    def spare(self) -> int | None:
        """Bytes under the cap that it leaves at every time; None where no cap is known."""
        return None if self.cap.bytes is None else max(0, self.cap.bytes - self.peak.total)


def cap_of(device: Device, asked: int | None) -> Cap:
    """The cap that was asked for, else what is free."""
    if asked is not None:
        return Cap(bytes=asked, asked=True)
    free = free_bytes(device)
    if free is None:
        return Cap(bytes=None)
    return Cap(bytes=int(_MARGIN * (free + held_bytes(device))))


def choose_for(
    checkpoint: Checkpoint,
    request: Request,
    settings: Settings,
    dtypes: DtypePlan,
    device: Device,
    *,
    several: bool,
    text_is_cached: bool,
    warm: bool = False,
) -> Choice:
    """The plan of a request, one of `several` pictures or the only one; errors as for `choose`.

    `warm` is for requests that come one after the other, each with a text that nobody knows before.
    """
    job = describe(
        checkpoint, settings, dtypes, device,
        several=several, text_is_cached=text_is_cached and not warm, warm=warm,
    )  # fmt: skip
    return choose(
        job,
        cap_of(device, request.max_memory),
        name=request.plan,
        mode=request.decode,
        tile=request.tile,
    )


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
) -> tuple[DecodePlan, StagePeak, str]:
    """For latents that are there: the fastest way to decode that fits, what it takes, and a notice or ""."""
    plans = decode_plans(mode, tile, height, width)
    for plan in plans:
        stage = predict_decode(checkpoint, plan, height, width, precision, device)
        if cap.holds(stage):
            break
    else:
        if cap.asked:
            others = ", or leave --decode and --tile away" if len(plans) == 1 else ""
            raise _nothing_fits([stage], cap, others)
    usual = plan == plans[0] and not cap.asked
    told = f"plan: decode {plan}; predicted peak {in_gib(stage.total)}, {cap}"
    return plan, stage, "" if usual else told


def choose(job: Job, cap: Cap, *, name: str | None, mode: DecodeMode, tile: int | None) -> Choice:
    """The fastest plan that fits under the cap, among those that the options leave.

    SanaError when none fits a cap that was asked for. Without one the smallest is tried: a prediction is no
    reason not to.
    """
    decodes = decode_plans(mode, tile, job.height, job.width)
    plans = _candidates(job, decodes, name)
    for plan in plans:
        stages = predict(job, plan)
        if cap.holds(peak(stages)):
            usual = plan == replace(plans[0], together=plan.together, keeps_text=plan.keeps_text)
            notice = "" if usual and not cap.asked else _why(plan, stages, cap)
            return Choice(job=job, plan=plan, stages=stages, cap=cap, notice=notice)
    smallest, stages = min(
        ((plan, predict(job, plan)) for plan in reversed(plans)),
        key=lambda pair: (peak(pair[1]).total, sum(stage.total for stage in pair[1])),
    )
    if cap.asked:
        limited = name is not None or len(decodes) == 1
        others = ", leave --plan, --decode and --tile away" if limited else ""
        raise _nothing_fits(stages, cap, f"{others}, a smaller --size or a quantized model")
    return Choice(
        job=job,
        plan=smallest,
        stages=stages,
        cap=cap,
        notice=f"{_why(smallest, stages, cap)}: it may not be enough",
    )


def _candidates(job: Job, decodes: list[DecodePlan], name: str | None) -> list[Plan]:
    """Plans, the fastest first. Stages are never in memory together, so each takes the first that may fit."""
    if name is not None:
        return [replace(NAMED[name], decode=decode) for decode in decodes]
    plans = [Plan(keeps_text=True, decode=decodes[0])] if job.warm else []
    plans += [Plan(decode=decodes[0])] if job.several else []
    branches = (False, True) if job.branches == 2 else (False,)
    plans += [
        Plan(
            together=False,
            streams_text=streams_text,
            streams_blocks=streams_blocks,
            branches_apart=apart,
            decode=decode,
        )
        for streams_blocks in (False, True)
        for apart in branches
        for decode in decodes
        for streams_text in (False, True)
    ]
    return plans


def _why(plan: Plan, stages: list[StagePeak], cap: Cap) -> str:
    worst = peak(stages)
    return f"plan: {plan}; predicted peak {in_gib(worst.total)} ({worst.stage}), {cap}"


def _nothing_fits(stages: list[StagePeak], cap: Cap, others: str) -> SanaError:
    """`others` are remedies beside a higher cap, for the hint."""
    worst = peak(stages)
    needed = -(-worst.total * 100 // 2**30) / 100  # rounded up
    return SanaError(
        f"no plan fits into {in_gib(cap.bytes or 0)}: the smallest needs {needed:.2f} GiB ({worst.stage})",
        hint=f"use --max-memory {needed:.2f}GiB{others}",
        code=ExitCode.USAGE,
    )
