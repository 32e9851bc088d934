"""The denoising of one picture with what is in memory: sampler, guidance, previews, and callbacks that may cancel."""

# C latent channels, h w latent grid

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from sana_cli.errors import Cancelled
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.denoise import denoise, init_noise
from sana_cli.pipeline.guidance import Passes
from sana_cli.pipeline.inputs import Inputs
from sana_cli.pipeline.pass_count import PassCount
from sana_cli.pipeline.recovery import retrying
from sana_cli.pipeline.watching import Watching
from sana_cli.request.params import GenerationParams
from sana_cli.schedulers import make_scheduler

# `latent_preview.py` wants 256 positions of latents.
NO_PREVIEW_YET = "no preview yet: it is learnt from the first pictures that are decoded, one of 512x512 pixels or four of 256x256"

OnStep = Callable[[int, int], object]  # after step N, counted from 1, of how many; False cancels


class StepCount(NamedTuple):
    """A drawing's place among the steps of its picture, of which there may be two drawings."""

    before: int  # steps of an earlier drawing
    total: int  # of all


def denoise_picture(
    components: Components,
    inputs: Inputs,
    params: GenerationParams,
    *,
    on_step: OnStep | None = None,
    watching: Watching | None = None,
    counted: StepCount | None = None,
) -> tuple[Tensor, PassCount]:
    """Finished latents (1, C, h, w) fp32, and the passes that they took.

    `counted`: where this drawing stands among the steps of its picture, for callbacks; None: it is all of them. Raises BrokenValues, and Cancelled if a callback returns False.
    """
    inputs.encode_originals([params])
    inputs.transformer(params)  # loading is no part of the time of denoising
    passes, steps = Passes(params), params.steps_to_run
    skipped = params.steps - steps
    counted = counted or StepCount(before=0, total=steps)
    noise, draw = init_noise(params.seed, components.checkpoint.transformer.in_channels, params)
    sampler = make_scheduler(
        params.scheduler,
        params.steps,
        shift=params.flow_shift,
        draw_noise=lambda: draw().to(components.device),
    )

    def velocity(x: Tensor, timestep: float) -> Tensor:
        def once() -> Tensor:
            apart = components.plan.branches_apart
            transformer, contexts, control = inputs.transformer(params)
            return passes.velocity(
                transformer, contexts, x, timestep, branches_apart=apart, control=control
            )

        return retrying(components, "denoise", once)  # a smaller plan resumes at the same step

    with (
        components.stopwatch.timed("denoise"),
        components.reporter.stage("denoise", steps) as advance,
    ):

        def after_step(i: int, latents: Tensor) -> None:
            advance()
            done = counted.before + i + 1 - skipped
            if on_step is not None and on_step(done, counted.total) is False:
                raise Cancelled(f"cancelled after step {done} of {counted.total}")

        latents = denoise(
            velocity,
            noise.to(components.device),
            sampler,
            init=inputs.init_latents(params),
            after_step=after_step,
            preview=_previewer(components, params, watching, counted),
        )
    return latents, passes.count


def _previewer(
    components: Components,
    params: GenerationParams,
    watching: Watching | None,
    counted: StepCount,
) -> Callable[[int, Tensor], None] | None:
    """Build the function that shows a step's estimate; None without a viewer, or before previews are ready."""
    if watching is None:
        return None
    if not components.preview.is_ready:
        components.tell_once(NO_PREVIEW_YET)
        return None

    skipped = params.steps - params.steps_to_run
    # A picture of one drawing counts the steps that it skips, too.
    only = counted.total == params.steps_to_run
    before, steps = (skipped, params.steps) if only else (counted.before, counted.total)

    def show(i: int, estimate: Tensor) -> None:
        step = before + i + 1 - skipped
        if watching.wants(step, steps) and (
            watching.show(components.preview.picture(estimate), step, steps) is False
        ):
            raise Cancelled(f"cancelled after step {step} of {steps}")

    return show
