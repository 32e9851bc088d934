"""Passes through the transformer, and two ways to save some. Both change the picture.

Perturbed-attention guidance adds a branch that shares its first blocks with the conditional one.

Guidance within an interval of noise levels (Kynkäänniemi et al. 2024, arXiv 2404.07724) skips the unconditional branch
outside of the interval. First-block caching: `models/block_cache.py`.
"""

# B batch, C latent channels, h w latent grid

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sana_cli.config.choices import Pag
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.sana_transformer import Control, SanaTransformer2D, TextContext
from sana_cli.pipeline.pass_count import PassCount
from sana_cli.request.params import GenerationParams
from sana_cli.schedulers import make_scheduler


def guided_velocity(
    transformer: SanaTransformer2D,
    contexts: list[TextContext],
    x: Tensor,
    timestep: float,
    *,
    guidance_scale: float,
    branches_apart: bool = False,
    caches: Sequence[FirstBlockCache] = (),
    pag: Pag | None = None,
    control: Control | None = None,
) -> Tensor:
    """Compute a step's velocity (B, C, h, w) fp32 at latents x (B, C, h, w), after guidance.

    Two contexts, of B texts each, are the unconditional and the conditional branch; `branches_apart` computes one
    after the other. `caches`: none, or one a context. `control`: the same for all contexts.

    With `pag`, v = v_u + g (v_c - v_u) + p (v_c - v_p), and v_c + p (v_c - v_p) without guidance: v_p is the conditional
    branch with perturbed attention (arXiv 2403.17377), which shares a pass with it.
    """
    dtype, config = transformer.proj_out.weight.dtype, transformer.config
    embedded = guidance_scale * config.guidance_embeds_scale if config.guidance_embeds else None
    velocities = []
    at_once = 1 if branches_apart else len(contexts)
    for group in (slice(i, i + at_once) for i in range(0, len(contexts), at_once)):
        batch = x.repeat(at_once, 1, 1, 1).to(dtype)
        scaled = timestep * config.timestep_scale
        layer = pag.layer if pag and group.stop == len(contexts) else None
        velocity = transformer.velocity(
            batch, scaled, contexts[group], embedded, caches[group], layer, control
        )
        velocities.append(velocity.float())
    velocity = velocities[0] if len(velocities) == 1 else torch.cat(velocities)
    branches = velocity.chunk(len(contexts) + (pag is not None))
    conditional = branches[len(contexts) - 1]
    guided = conditional
    if len(contexts) == 2:
        guided = branches[0] + guidance_scale * (conditional - branches[0])
    return guided if pag is None else guided + pag.scale * (conditional - branches[-1])


class Passes:
    """The passes of one picture. Holds what its caches keep from step to step."""

    def __init__(self, params: GenerationParams) -> None:
        self._params = params
        branches = range(2 if params.uses_two_branches else 1)
        self._caches = [FirstBlockCache(params.cache) for _ in branches if params.cache]
        self._begun = 0

    def velocity(
        self,
        transformer: SanaTransformer2D,
        contexts: list[TextContext],
        x: Tensor,
        timestep: float,
        *,
        branches_apart: bool = False,
        control: Control | None = None,
    ) -> Tensor:
        """A step's velocity (B, C, h, w) fp32; the last context is the conditional one."""
        needed = slice(None if is_guided(self._params, timestep) else -1, None)
        velocity = guided_velocity(
            transformer,
            contexts[needed],
            x,
            timestep,
            guidance_scale=self._params.guidance_scale,
            branches_apart=branches_apart,
            caches=self._caches[needed],
            pag=self._params.pag,
            control=control,
        )
        self._begun += len(contexts[needed])
        return velocity

    @property
    def count(self) -> PassCount:
        """Count the passes of a finished picture."""
        reused = sum(cache.reused for cache in self._caches)
        return PassCount(
            without_savings=self._params.steps_to_run
            * (2 if self._params.uses_two_branches else 1),
            computed=self._begun - reused,
            first_block_only=reused,
        )


def is_guided(params: GenerationParams, timestep: float) -> bool:
    """Check whether a step at this noise level, in thousandths, lies in the interval of guidance."""
    low, high = params.guidance_interval
    return low <= timestep / 1000 <= high


def without_effect(params: GenerationParams, *, blocks: int) -> Iterator[str]:
    """Yield a line for each option that has no effect, or a larger one than expected. `blocks`: of the transformer."""
    if params.guidance_interval != (0, 1):
        if not params.uses_two_branches:
            yield "--guidance-interval has no effect: guidance is 1 or less, or built in (Sprint)"
        else:
            guided = [is_guided(params, timestep) for timestep in _timesteps(params)]
            if all(guided):
                yield "--guidance-interval has no effect: every step lies in it"
            elif not any(guided):
                yield "no step lies in --guidance-interval: the picture is drawn without guidance"
    if params.cache and (params.steps_to_run == 1 or blocks == 1):
        one = "the picture has one step" if params.steps_to_run == 1 else "the model has one block"
        yield f"--cache has no effect: {one}"


def _timesteps(params: GenerationParams) -> list[float]:
    """List the timesteps, in thousandths, of all steps that a flow model runs."""
    nothing = torch.empty(0)
    sampler = make_scheduler(
        params.scheduler, params.steps, shift=params.flow_shift, draw_noise=lambda: nothing
    )
    first = params.steps - params.steps_to_run
    return [sampler.inputs(i, nothing)[1] for i in range(first, params.steps)]
