"""Our samplers against diffusers', and against the published tables."""

from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from sana_cli.schedulers import flow_dpm_sigmas, flow_euler_sigmas, make_scheduler, scm_angles

# B batch, C channels, h w latents

STEPS = [1, 2, 3, 4, 5, 8, 14, 20, 28, 50]
SHIFTS = [1.0, 3.0, 4.0, 6.0]

# Printed to six places in the reference implementation's terms (N steps, shift).
GOLDEN_SIGMAS = {
    (20, 3.0): [.999666, .982420, .963941, .944094, .922722, .899640, .874635, .847457, .817810, .785340,
                .749625, .710152, .666296, .617284, .562148, .499667, .428265, .345888, .249792, .136240, 0],
    (20, 6.0): [.999833, .991132, .981640, .971243, .959808, .947169, .933126, .917431, .899775, .879765,
                .856898, .830513, .799733, .763359, .719712, .666370, .599700, .513992, .399733, .239808, 0],
}  # fmt: skip
GOLDEN_TIMESTEPS = {
    (20, 3.0): [999, 982, 963, 944, 922, 899, 874, 847, 817, 785, 749, 710, 666, 617, 562, 499, 428, 345, 249, 136],
    (20, 6.0): [999, 991, 981, 971, 959, 947, 933, 917, 899, 879, 856, 830, 799, 763, 719, 666, 599, 513, 399, 239],
    (14, 3.0): [999, 974, 947, 916, 881, 843, 799, 749, 691, 624, 545, 449, 333, 187],
}  # fmt: skip


def no_noise() -> Tensor:
    raise AssertionError("this sampler is deterministic")


def velocity(latents: Tensor, timestep: float) -> Tensor:
    """A smooth stand-in for the network that depends on both inputs."""
    return torch.tanh(latents.roll(1, 1) * 0.7) + 0.3 * latents - timestep / 1000


def noise(seed: int = 0) -> Tensor:
    return torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("steps", "shift"), GOLDEN_SIGMAS)
def test_flow_dpm_sigmas_are_the_published_ones(steps: int, shift: float) -> None:
    golden = torch.tensor(GOLDEN_SIGMAS[steps, shift])
    assert_close(torch.as_tensor(flow_dpm_sigmas(steps, shift)).float(), golden, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("steps", "shift"), GOLDEN_TIMESTEPS)
def test_flow_dpm_timesteps_are_the_published_ones(steps: int, shift: float) -> None:
    sampler = make_scheduler("flow-dpm", steps, shift=shift, draw_noise=no_noise)
    timesteps = [sampler.inputs(i, noise())[1] for i in range(steps)]
    assert timesteps == GOLDEN_TIMESTEPS[steps, shift]


@pytest.mark.parametrize("shift", SHIFTS)
def test_flow_dpm_schedule(reference: ModuleType, shift: float) -> None:
    """Every step count up to 60: a truncated timestep is wrong by one if a sigma is off by one bit."""
    for steps in range(1, 61):
        theirs = reference.make_scheduler("flow-dpm", shift)
        theirs.set_timesteps(steps)
        sigmas = torch.as_tensor(flow_dpm_sigmas(steps, shift)).float()
        assert_close(sigmas, theirs.sigmas.float(), atol=1e-6, rtol=0)
        sampler = make_scheduler("flow-dpm", steps, shift=shift, draw_noise=no_noise)
        ours = [sampler.inputs(i, noise())[1] for i in range(steps)]
        assert ours == theirs.timesteps.tolist(), f"timesteps at {steps} steps"


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
def test_flow_euler_schedule(reference: ModuleType, steps: int, shift: float) -> None:
    theirs = reference.make_scheduler("flow-euler", shift)
    theirs.set_timesteps(steps)
    sigmas = torch.as_tensor(flow_euler_sigmas(steps, shift)).float()
    assert_close(sigmas, theirs.sigmas, atol=1e-6, rtol=0)
    sampler = make_scheduler("flow-euler", steps, shift=shift, draw_noise=no_noise)
    ours = torch.tensor([sampler.inputs(i, noise())[1] for i in range(steps)])
    assert_close(ours, theirs.timesteps, atol=1e-3, rtol=0)


@pytest.mark.parametrize("steps", STEPS)
def test_scm_schedule(reference: ModuleType, steps: int) -> None:
    theirs = reference.make_scheduler("scm", 0)
    theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    angles = torch.as_tensor(scm_angles(steps)).float()
    assert_close(angles, theirs.timesteps, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["flow-dpm", "flow-euler"])
@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", STEPS)
def test_flow_samplers(reference: ModuleType, name: str, steps: int, shift: float) -> None:
    theirs = reference.make_scheduler(name, shift)
    theirs.set_timesteps(steps)
    x = noise()
    for t in theirs.timesteps:
        x = theirs.step(velocity(x, float(t)), t, x, return_dict=False)[0]

    sampler = make_scheduler(name, steps, shift=shift, draw_noise=no_noise)
    y = sampler.start(noise())
    for i in range(sampler.steps):
        latents, timestep = sampler.inputs(i, y)
        y = sampler.step(i, y, velocity(latents, timestep))
    assert y.dtype == torch.float32
    assert_close(y, x, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("steps", STEPS)
def test_scm_sampler(reference: ModuleType, steps: int) -> None:
    """Steps as the Sprint pipeline takes them, with the same fresh noise on both sides."""
    theirs = reference.make_scheduler("scm", 0)
    theirs.set_timesteps(steps, intermediate_timesteps=1.3 if steps == 2 else None)
    theirs.set_begin_index(0)
    generator = torch.Generator().manual_seed(11)
    x = noise() * 0.5
    for t in theirs.timesteps[:-1]:
        s = torch.sin(t) / (torch.cos(t) + torch.sin(t))
        r = torch.sqrt(s**2 + (1 - s) ** 2)
        network_input = x / 0.5 * r
        v = velocity(network_input, float(s))
        prediction = ((1 - 2 * s) * network_input + (1 - 2 * s + 2 * s**2) * v) / r * 0.5
        x, data = theirs.step(prediction, t, x, generator=generator, return_dict=False)

    generator = torch.Generator().manual_seed(11)
    sampler = make_scheduler(
        "scm", steps, shift=3.0, draw_noise=lambda: torch.randn(x.shape, generator=generator)
    )
    y = sampler.start(noise())
    for i in range(sampler.steps):
        latents, s_ours = sampler.inputs(i, y)
        y = sampler.step(i, y, velocity(latents, s_ours))
    assert y.dtype == torch.float32
    assert_close(y, data / 0.5, atol=5e-5, rtol=5e-5)


def test_steps_must_be_positive() -> None:
    with pytest.raises(ValueError, match="steps"):
        make_scheduler("flow-dpm", 0, shift=3.0, draw_noise=no_noise)
