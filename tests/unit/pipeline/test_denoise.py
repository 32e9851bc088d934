"""The denoising loop with a network that knows the answer: steps, starts within, callbacks, broken values."""

# C latent channels, h w latent grid

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sana_cli.pipeline.denoise import InitLatents, Velocity, denoise, init_noise
from sana_cli.pipeline.values import BrokenValues
from sana_cli.request.params import GenerationParams
from sana_cli.schedulers import make_scheduler

Params = Callable[..., GenerationParams]
SHAPE = (1, 4, 3, 5)
NAMES = ["flow-dpm", "flow-euler", "scm"]


def random(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


DATA, NOISE = random(1), random(2)


def sampler_of(name: Any, steps: int) -> Any:
    generator = torch.Generator().manual_seed(3)
    return make_scheduler(
        name, steps, shift=3.0, draw_noise=lambda: torch.randn(SHAPE, generator=generator)
    )


def knowing(sampler: Any, seen: list[float] | None = None, first: int = 0) -> Velocity:
    """The velocity noise - DATA of latents that hold DATA, from step `first` on; notes each timestep."""
    steps = iter(range(first, sampler.steps))

    def velocity(x: Tensor, timestep: float) -> Tensor:
        if seen is not None:
            seen.append(timestep)
        i = next(steps)
        # Flow timesteps are rounded as published; those of SCM are the share of noise.
        return (x - DATA) / (sampler.sigmas[i] if hasattr(sampler, "sigmas") else timestep)

    return velocity


# -- noise -----------------------------------------------------------------------------------------


def test_noise_is_the_seed_s(params: Params) -> None:
    """Whatever the process drew before, and without a trace in its generator."""
    p = params(width=96, height=160)
    state = torch.get_rng_state()
    first, more = init_noise(7, 32, p)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    again, more_again = init_noise(7, 32, p)
    assert first.shape == (1, 32, 5, 3), "height first"
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    second = more()
    assert torch.equal(second, more_again())
    assert not torch.equal(first, second), "a sampler that draws more gets other noise"
    assert not torch.equal(first, init_noise(8, 32, p)[0])


def test_noise_has_the_size_that_is_drawn(params: Params) -> None:
    """With bins it differs from the picture's."""
    noise, _ = init_noise(1, 8, replace(params(), drawn_width=512, drawn_height=288))
    assert noise.shape == (1, 8, 9, 16)


# -- the loop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_answer_is_found(name: str, steps: int) -> None:
    seen: list[float] = []
    sampler = sampler_of(name, steps)
    found = denoise(knowing(sampler, seen), NOISE, sampler)
    torch.testing.assert_close(found, DATA, atol=1e-4, rtol=1e-4)
    assert len(seen) == steps
    assert seen == sorted(seen, reverse=True)
    assert not found.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_callbacks_see_every_step(name: str) -> None:
    after: list[tuple[int, Tensor]] = []
    shown: list[tuple[int, Tensor]] = []
    sampler = sampler_of(name, 4)
    found = denoise(
        knowing(sampler), NOISE, sampler,
        after_step=lambda i, latents: after.append((i, latents)),
        preview=lambda i, estimate: shown.append((i, estimate)),
    )  # fmt: skip
    assert [i for i, _ in after] == [i for i, _ in shown] == [0, 1, 2, 3]
    assert torch.equal(after[-1][1], found)
    for _, estimate in shown:  # a network that knows the answer shows it from the first step
        torch.testing.assert_close(estimate, DATA, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("callback", ["after_step", "preview"])
def test_a_callback_stops_by_raising(callback: str) -> None:
    class Stop(Exception):
        pass

    def stop(i: int, latents: Tensor) -> None:
        if i == 1:
            raise Stop

    seen: list[float] = []
    sampler = sampler_of("flow-euler", 9)
    with pytest.raises(Stop):
        denoise(knowing(sampler, seen), NOISE, sampler, **{callback: stop})  # type: ignore[arg-type]
    assert len(seen) == 2, "no further pass is computed"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_values_name_their_step(value: float) -> None:
    calls = 0

    def breaking(x: Tensor, timestep: float) -> Tensor:
        nonlocal calls
        calls += 1
        return x if calls < 3 else torch.full_like(x, value)

    with pytest.raises(BrokenValues, match="after denoising step 3"):
        denoise(breaking, NOISE, sampler_of("flow-dpm", 5))
    assert calls == 3


# -- starts within ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [1, 4])
def test_an_original_runs_the_last_steps(name: str, first: int) -> None:
    """From the original with that much noise; steps keep the numbers of the whole schedule."""
    seen: list[float] = []
    numbers: list[int] = []
    whole = sampler_of(name, 5)
    found = denoise(
        knowing(whole, seen, first), NOISE, whole, init=InitLatents(DATA, first),
        after_step=lambda i, latents: numbers.append(i),
    )  # fmt: skip
    assert numbers == list(range(first, 5))
    assert seen == [whole.inputs(i, NOISE)[1] for i in range(first, 5)]
    torch.testing.assert_close(found, DATA, atol=1e-4, rtol=1e-4)


def test_the_first_step_of_an_original_is_noise() -> None:
    """As without one, where nothing is kept."""
    other = InitLatents(random(9), 0)
    found = []
    for init in (None, other):
        sampler = sampler_of("flow-dpm", 3)
        found.append(denoise(knowing(sampler), NOISE, sampler, init=init))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("first", [0, 2])
def test_what_a_mask_keeps_stays_to_the_bit(name: str, first: int) -> None:
    """During the loop it has as much noise as the others, at its end none."""
    original, redrawn = random(9), torch.zeros(1, 1, 3, 5, dtype=torch.bool)
    redrawn[..., 2:] = True
    during: list[Tensor] = []
    sampler = sampler_of(name, 4)
    found = denoise(
        knowing(sampler, first=first), NOISE, sampler, init=InitLatents(original, first, redrawn),
        after_step=lambda i, latents: during.append(latents),
    )  # fmt: skip
    assert torch.equal(found[..., :2], original[..., :2])
    torch.testing.assert_close(found[..., 2:], DATA[..., 2:], atol=1e-4, rtol=1e-4)
    assert not torch.equal(during[0][..., :2], original[..., :2])
