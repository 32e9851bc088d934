"""Samplers: Flow-DPM-Solver++ (2M), Flow-Euler, and SCM for Sprint. All arithmetic is fp32.

Flow models: x_sigma = (1 - sigma) x0 + sigma noise, and the network predicts v = noise - x0.
Coefficients are Python floats (float64), tensors fp32, so a seed gives one picture everywhere.
A sampler is used as: `x = start(noise)`; per step `inputs(i, x)` -> network -> `step(i, x, v)`. Or it begins at a
later step i with `x = noised(data, noise, i)`.
"""

# B batch, C latent channels, h w latent grid

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from sana_cli.config.choices import SchedulerName

_TRAIN_TIMESTEPS = 1000
_SIGMA_DATA = 0.5  # of the TrigFlow parametrisation that Sprint was distilled in
_SCM_START = 1.57080  # radians; published rounding of pi/2
_SCM_MIDDLE = 1.3  # radians; published middle angle of the two-step schedule


class Sampler(Protocol):
    """The interface of a scheduler that the denoising loop uses."""

    steps: int

    def start(self, noise: Tensor) -> Tensor:
        """Unit normal noise (B, C, h, w) fp32 -> the first latents."""

    def noised(self, data: Tensor, noise: Tensor, i: int) -> Tensor:
        """Finished latents as they are before step i, given unit noise; i = steps: as they are. All (B, C, h, w) fp32."""

    def inputs(self, i: int, latents: Tensor) -> tuple[Tensor, float]:
        """Network input (B, C, h, w) fp32 and timestep of step i."""

    def step(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """Latents after step i; after the last step, the finished ones."""

    def estimate(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        """Estimate the finished latents at step i: their expected value."""


def make_scheduler(
    name: SchedulerName, steps: int, *, shift: float, draw_noise: Callable[[], Tensor]
) -> Sampler:
    """A sampler by name. `draw_noise` gives fresh unit noise of the latents' shape (SCM alone)."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    if name == "flow-dpm":
        return FlowDPMSolver(flow_dpm_sigmas(steps, shift))
    if name == "flow-euler":
        return FlowEuler(flow_euler_sigmas(steps, shift))
    return SCM(scm_angles(steps), draw_noise)


# -- schedules ---------------------------------------------------------------------------------


def shift_sigma(sigma: float, shift: float) -> float:
    """Timestep shifting of flow models: more steps at high noise for shift > 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def _linspace(start: float, end: float, count: int) -> list[float]:
    # numpy's arithmetic, to the bit: at shift 1 a timestep can be an integer that truncation flips
    step = (end - start) / max(count - 1, 1)
    return [start + i * step for i in range(count - 1)] + [end if count > 1 else start]


def flow_dpm_sigmas(steps: int, shift: float) -> list[float]:
    """steps + 1 noise levels from almost 1 down to 0 (Sana, arXiv 2410.10629, appendix)."""
    base = [1 - alpha for alpha in _linspace(1.0, 1 / _TRAIN_TIMESTEPS, steps + 1)]
    return [shift_sigma(sigma, shift) for sigma in reversed(base[1:])] + [0.0]


def flow_euler_sigmas(steps: int, shift: float) -> list[float]:
    """steps + 1 noise levels from 1 to 0; as published, the lowest one is shifted twice."""
    lowest = shift_sigma(1 / _TRAIN_TIMESTEPS, shift)
    return [shift_sigma(sigma, shift) for sigma in _linspace(1.0, lowest, steps)] + [0.0]


def scm_angles(steps: int) -> list[float]:
    """steps + 1 TrigFlow angles from pi/2 to 0, in radians."""
    if steps == 2:
        return [_SCM_START, _SCM_MIDDLE, 0.0]
    return _linspace(_SCM_START, 0.0, steps + 1)


# -- samplers ----------------------------------------------------------------------------------


class FlowDPMSolver:
    """DPM-Solver++(2M) on flow sigmas: midpoint form, first order on the first and last step.

    Holds the previous step's data prediction; one object draws one batch.
    """

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas
        self.steps = len(sigmas) - 1
        self._previous: Tensor | None = None

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def noised(self, data: Tensor, noise: Tensor, i: int) -> Tensor:
        return mixed(data, noise, self.sigmas[i])

    def inputs(self, i: int, latents: Tensor) -> tuple[Tensor, float]:
        return latents, float(int(_TRAIN_TIMESTEPS * self.sigmas[i]))  # trained on integers

    def step(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        data = self.estimate(i, latents, velocity)
        previous, self._previous = self._previous, data
        here, there = self.sigmas[i], self.sigmas[i + 1]
        if there == 0:
            return data
        h = _log_snr(there) - _log_snr(here)
        if previous is not None:
            r = (_log_snr(here) - _log_snr(self.sigmas[i - 1])) / h
            data = data + (0.5 / r) * (data - previous)
        return (there / here) * latents - (1 - there) * math.expm1(-h) * data

    def estimate(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        return latents - self.sigmas[i] * velocity


def _log_snr(sigma: float) -> float:
    """Half the log signal-to-noise ratio, lambda = ln(alpha / sigma)."""
    return math.log((1 - sigma) / sigma)


def mixed(data: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """A flow model's latents at noise level sigma."""
    return (1 - sigma) * data + sigma * noise


class FlowEuler:
    """First-order integration of the flow; float timesteps."""

    def __init__(self, sigmas: list[float]) -> None:
        self.sigmas = sigmas
        self.steps = len(sigmas) - 1

    def start(self, noise: Tensor) -> Tensor:
        return noise

    def noised(self, data: Tensor, noise: Tensor, i: int) -> Tensor:
        return mixed(data, noise, self.sigmas[i])

    def inputs(self, i: int, latents: Tensor) -> tuple[Tensor, float]:
        return latents, _TRAIN_TIMESTEPS * self.sigmas[i]

    def step(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        return latents + (self.sigmas[i + 1] - self.sigmas[i]) * velocity

    def estimate(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        return latents - self.sigmas[i] * velocity


class SCM:
    """Consistency sampling in TrigFlow (SANA-Sprint, arXiv 2503.09641, section 3).

    The network was trained as a flow model, so each angle is mapped to a flow time s and back.
    """

    def __init__(self, angles: list[float], draw_noise: Callable[[], Tensor]) -> None:
        self.angles = angles
        self.steps = len(angles) - 1
        self._draw_noise = draw_noise

    def start(self, noise: Tensor) -> Tensor:
        return noise * _SIGMA_DATA

    def noised(self, data: Tensor, noise: Tensor, i: int) -> Tensor:
        if i == self.steps:
            return data
        angle = self.angles[i]
        return (math.cos(angle) * data + math.sin(angle) * noise) * _SIGMA_DATA

    def inputs(self, i: int, latents: Tensor) -> tuple[Tensor, float]:
        s, r = _flow_time(self.angles[i])
        return latents / _SIGMA_DATA * r, s

    def step(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        data, following = self._data(i, latents, velocity), self.angles[i + 1]
        if i == self.steps - 1:
            return data / _SIGMA_DATA
        noise = self._draw_noise() * _SIGMA_DATA
        return math.cos(following) * data + math.sin(following) * noise

    def estimate(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        return self._data(i, latents, velocity) / _SIGMA_DATA

    def _data(self, i: int, latents: Tensor, velocity: Tensor) -> Tensor:
        angle = self.angles[i]
        s, r = _flow_time(angle)
        flow_input = latents / _SIGMA_DATA * r
        trig = ((1 - 2 * s) * flow_input + (1 - 2 * s + 2 * s * s) * velocity) / r * _SIGMA_DATA
        return math.cos(angle) * latents - math.sin(angle) * trig


def _flow_time(angle: float) -> tuple[float, float]:
    """The flow time s of a TrigFlow angle, and the norm r = |(s, 1 - s)|."""
    s = math.sin(angle) / (math.sin(angle) + math.cos(angle))
    return s, math.hypot(s, 1 - s)
