"""Which passes through the transformer a picture takes, and the two ways to take fewer, which change the picture.

Guidance only within an interval of noise levels (Kynkäänniemi et al. 2024, arXiv 2404.07724): outside of it the
unconditional branch is left out. First-block caching: `models/block_cache.py`.
"""

# B batch, C latent channels, h w latent grid

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline.verbs import guided_velocity
from sana_cli.request.params import Settings
from sana_cli.schedulers import make_scheduler


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCount:
    """Of one picture; a step has a pass for each branch. What is in none of the last two was left out."""

    without_savings: int
    computed: int
    first_block_only: int

    @property
    def saved(self) -> int:
        """Passes that were not computed as a whole."""
        return self.without_savings - self.computed

    def __str__(self) -> str:
        left_out = self.saved - self.first_block_only
        parts = [
            f"{self.computed} of {self.without_savings} passes computed",
            f"{self.first_block_only} ended after the first block" if self.first_block_only else "",
            f"{left_out} left out" if left_out else "",
        ]
        return ", ".join(part for part in parts if part)


class Passes:
    """The passes of one picture. Holds what its caches keep from step to step."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        branches = range(2 if settings.uses_two_branches else 1)
        self._caches = [FirstBlockCache(settings.cache) for _ in branches if settings.cache]
        self._begun = 0

    def velocity(
        self,
        transformer: SanaTransformer2D,
        contexts: list[TextContext],
        x: Tensor,
        timestep: float,
        *,
        branches_apart: bool = False,
    ) -> Tensor:
        """A step's velocity (B, C, h, w) fp32; the last context is the conditional one."""
        needed = slice(None if is_guided(self._settings, timestep) else -1, None)
        velocity = guided_velocity(
            transformer,
            contexts[needed],
            x,
            timestep,
            guidance_scale=self._settings.guidance_scale,
            branches_apart=branches_apart,
            caches=self._caches[needed],
        )
        self._begun += len(contexts[needed])
        return velocity

    @property
    def count(self) -> PassCount:
        """Of a finished picture."""
        reused = sum(cache.reused for cache in self._caches)
        return PassCount(
            without_savings=self._settings.steps_to_run
            * (2 if self._settings.uses_two_branches else 1),
            computed=self._begun - reused,
            first_block_only=reused,
        )


def is_guided(settings: Settings, timestep: float) -> bool:
    """Whether a step at this noise level, in thousandths, lies in the interval of guidance."""
    low, high = settings.guidance_interval
    return low <= timestep / 1000 <= high


def without_effect(settings: Settings, *, blocks: int) -> Iterator[str]:
    """What was asked for and changes nothing, or more than one may think, a line each."""
    if settings.guidance_interval != (0, 1):
        if not settings.uses_two_branches:
            yield "--guidance-interval has no effect: guidance is 1 or less, or built in (Sprint)"
        else:
            guided = [is_guided(settings, timestep) for timestep in _timesteps(settings)]
            if all(guided):
                yield "--guidance-interval has no effect: every step lies in it"
            elif not any(guided):
                yield "no step lies in --guidance-interval: the picture is drawn without guidance"
    if settings.cache and (settings.steps_to_run == 1 or blocks == 1):
        one = (
            "the picture has one step" if settings.steps_to_run == 1 else "the model has one block"
        )
        yield f"--cache has no effect: {one}"


def _timesteps(settings: Settings) -> list[float]:
    """Of every step that runs of a flow model."""
    nothing = torch.empty(0)
    sampler = make_scheduler(
        settings.scheduler, settings.steps, shift=settings.flow_shift, draw_noise=lambda: nothing
    )
    first = settings.steps - settings.steps_to_run
    return [sampler.inputs(i, nothing)[1] for i in range(first, settings.steps)]
