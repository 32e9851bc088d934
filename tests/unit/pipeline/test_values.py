"""The check between stages: what is no picture is an error that names its stage."""

import pytest
import torch
from torch import Tensor

from sana_cli.pipeline.denoise import denoise
from sana_cli.pipeline.values import BrokenValues, check_values
from sana_cli.schedulers import FlowEuler

SPREAD = torch.linspace(-1, 1, 24).reshape(2, 3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_broken_value_is_enough(value: float, dtype: torch.dtype) -> None:
    tensor = SPREAD.to(dtype, copy=True)
    check_values(tensor, "decoding")
    tensor[1, 2, 3] = value
    with pytest.raises(BrokenValues, match=r"^NaN or infinite values after denoising step 3$"):
        check_values(tensor, "denoising step 3")


@pytest.mark.parametrize("value", [0.0, -3.0, 65504.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_flat_values(value: float, dtype: torch.dtype) -> None:
    """Their spread is computed in fp32: the largest numbers of fp16 do not overflow in it."""
    with pytest.raises(BrokenValues, match=r"^flat values after decoding$"):
        check_values(torch.full((1, 3, 2, 2), value, dtype=dtype), "decoding")


@pytest.mark.parametrize(
    ("flat_below", "is_flat"), [(0.0, False), (0.009, False), (0.011, True), (-1.0, False)]
)
def test_how_little_counts_as_flat(flat_below: float, is_flat: bool) -> None:
    tensor = 0.01 * SPREAD / SPREAD.std()
    if not is_flat:
        return check_values(tensor, "decoding", flat_below=flat_below)
    with pytest.raises(BrokenValues, match="flat"):
        check_values(tensor, "decoding", flat_below=flat_below)
    return None


@pytest.mark.parametrize("tensor", [torch.tensor(2.0), torch.tensor([0.0]), torch.empty(0, 3)])
def test_too_few_values_are_not_flat(tensor: Tensor) -> None:
    check_values(tensor, "text encoding")


def test_one_colour_is_a_picture_where_it_may_be() -> None:
    check_values(torch.zeros(1, 32, 2, 2), "encoding the picture", flat_below=-1)


def test_values_whose_squares_overflow_are_no_broken_ones() -> None:
    check_values(torch.tensor([3e38, -3e38, 1.0]), "a test")


def test_one_value_is_not_flat() -> None:
    check_values(torch.tensor([2.0]), "a test")
    with pytest.raises(BrokenValues, match="NaN or infinite values after a test"):
        check_values(torch.tensor([torch.nan]), "a test")


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_every_step_is_checked(broken: int) -> None:
    """On a CPU before anybody sees it."""
    seen: list[int] = []

    def velocity(latents: torch.Tensor, timestep: float) -> torch.Tensor:
        return latents * (torch.nan if len(seen) == broken else 1.0)

    with pytest.raises(BrokenValues, match=f"after denoising step {broken + 1}"):
        denoise(
            velocity,
            torch.randn(1, 2, 3, 3),
            FlowEuler([1.0, 0.7, 0.3, 0.0]),
            after_step=lambda i, latents: seen.append(i),
        )
    assert seen == list(range(broken))
