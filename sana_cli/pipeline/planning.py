"""The memory plan of a pipeline: chosen for a picture, made smaller when memory runs out all the same. No torch."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.memory.forecast import Job, kept_bytes, peak, predict
from sana_cli.memory.planner import Cap, MemoryPlan, cap_of, choose_decode, choose_for
from sana_cli.memory.plans import Plan
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import Device, DtypePlan

_log = logging.getLogger("sana.run")

Stage = Literal["encode", "text", "denoise", "decode"]
# What follows: nothing after "one" picture; "several" pictures of texts that are known; "more" of any text.
Expects = Literal["one", "several", "more"]


class Planning:
    """The plan of now, and what it was made for."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: RuntimeOptions,
        device: Device,
        *,
        expects: Expects,
        cap_source: str = "",
    ) -> None:
        """`cap_source` is where the memory cap is set, for messages."""
        self.checkpoint, self.runtime, self.device = checkpoint, runtime, device
        self.expects, self.cap_source = expects, cap_source
        self.cap: Cap = cap_of(device, runtime.max_memory, cap_source)
        self.plan = Plan()
        self.reserved = 0  # bytes of the host that the process holds for other work
        self.spare: int | None = 0  # bytes left for others at every time; None: nobody counts
        self._made_for: tuple[object, ...] | None = None
        self._two_branches = False
        self._size = (0, 0)  # pixels that are decoded, height first
        self._job: Job | None = None
        self._decode_peak = 0

    def choose(
        self, params: GenerationParams, dtypes: DtypePlan, *, text_is_cached: Callable[[], bool]
    ) -> MemoryPlan | None:
        """Take the fastest plan that fits a picture; None where the plan of now was made for one like it.

        SanaError where none fits a cap that was asked for.
        """
        p = params
        made_for = (
            p.drawn_width, p.drawn_height, p.uses_two_branches, p.init_image, p.loras, p.decoder,
            bool(p.cache), p.pag is not None, p.control is not None, p.upscale, self.expects, dtypes,
            self.reserved,
        )  # fmt: skip
        self._size, self._two_branches = (p.drawn_height, p.drawn_width), p.uses_two_branches
        if made_for == self._made_for:
            return None
        choice = choose_for(
            self.checkpoint,
            self.runtime,
            params,
            dtypes,
            self.device,
            cap_source=self.cap_source,
            several=self.expects != "one",
            warm=self.expects == "more",
            text_is_cached=text_is_cached(),
            reserved=self.reserved,
        )
        _log.info("%s", choice)
        self.plan, self._job, self.cap = choice.plan, choice.job, choice.cap
        self.spare, self._made_for = choice.spare, made_for
        return choice

    def choose_decode(
        self,
        vae_dtype: str,
        *,
        height: int,
        width: int,
        size: tuple[int, int],
        decoder: OtherDecoder | None = None,
    ) -> str:
        """Take the fastest way to decode latents of `height` x `width` pixels, with nothing else to do.

        `size` is that of the finished picture, width first. Returns a notice, or "". SanaError where none fits a cap that was asked for.
        """
        decode, predicted, notice = choose_decode(
            replace(self.checkpoint, decoder=decoder), vae_dtype, self.device, self.cap,
            height=height, width=width, mode=self.runtime.decode, tile=self.runtime.tile,
            size=size,
        )  # fmt: skip
        self.plan, self._decode_peak = Plan(together=False, decode=decode), predicted.total
        self._size = (height, width)
        return notice

    def __str__(self) -> str:
        """The plan in words; that of decoding alone, where nothing else is to do."""
        return f"decode {self.plan.decode}" if self._job is None else str(self.plan)

    @property
    def predicted_peak(self) -> int:
        """Bytes in memory at the predicted peak under the current plan."""
        if self._job is None:
            return self._decode_peak
        return peak(predict(self._job, self.plan)).total

    @property
    def kept_bytes(self) -> int:
        """Predicted bytes that stay in memory for the next picture."""
        return kept_bytes(self._job, self.plan) if self._job is not None else 0

    @property
    def keeps_parts(self) -> bool:
        """True if transformer and decoder stay in memory for the next picture."""
        return self.plan.together and self.expects != "one"

    @property
    def encodes_beside_parts(self) -> bool:
        """True if they stay in memory while a picture is encoded: between two drawings of one."""
        return self.keeps_parts and self._job is not None and self._job.upscales

    @property
    def runs_branches_apart(self) -> bool:
        """True if guidance takes two passes one after the other, which rounds differently."""
        return self._two_branches and self.plan.branches_apart

    def step_down(self, stage: Stage) -> bool:
        """Take the next smaller plan for a stage that ran out of memory; False when nothing is left to try."""
        plan = self.plan
        if stage in ("encode", "decode"):
            decode = plan.decode.smaller(*self._size)
            smaller = replace(plan, decode=decode) if decode else None
        elif stage == "text":
            smaller = plan.smaller_text()
        else:
            smaller = plan.smaller_denoise(two_branches=self._two_branches)
        if smaller is None:
            return False
        self.plan, self.spare = smaller, 0
        return True

    def keep_nothing(self) -> None:
        """Keep no part for the next picture."""
        self.plan, self.spare = replace(self.plan, together=False, keeps_text=False), 0
