"""What is distilled begins as its teacher and is stored as it is measured."""

import pytest
import torch

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import SCALE
from sana_cli.loading.load import load_transformer
from sana_cli.schedulers import SCM, scm_angles


@pytest.mark.parametrize("angle", [0.4, 1.3, 1.5708])
def test_the_student_begins_as_the_teacher(angle: float) -> None:
    """With the samplers' own conversion between flow models and TrigFlow, by `sana_cli.schedulers.SCM`."""
    from training.distil_steps import TrigFlow, student_of

    teacher = load_transformer(open_checkpoint("builtin"), dtype="fp32", device=torch.device("cpu"))
    student = TrigFlow(student_of(teacher)).eval()
    generator = torch.Generator().manual_seed(0)
    x, embeds = (
        torch.randn(2, 32, 8, 8, generator=generator),
        torch.randn(2, 7, 160, generator=generator),
    )
    mask, guidance = torch.ones(2, 7, dtype=torch.bool), torch.tensor([3.0, 5.0])
    with torch.no_grad():
        F = student(x, torch.full((2,), angle), embeds, mask, guidance)
        sampler = SCM([angle, 0.0], lambda: torch.zeros_like(x))
        flow_x, s = sampler.inputs(0, x / 2)  # the sampler's data has a deviation of a half
        velocity = teacher(flow_x, torch.full((2,), 1000 * s), [teacher.encode_text(embeds, mask)])
        data = sampler.step(0, x / 2, velocity)
    cos, sin = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    torch.testing.assert_close(cos * x - sin * F, data, rtol=1e-3, atol=1e-3)


def test_scm_angles_are_trained() -> None:
    assert scm_angles(2)[0] == pytest.approx(1.5708, abs=1e-3)


def test_packed_rows() -> None:
    from training.export_distilled import packed_rows

    weight = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    packed = packed_rows("w", weight)
    assert packed["w"].dtype == torch.int8
    again = packed["w"].float() * packed["w" + SCALE].float()[:, None]
    noise = (again - weight).square().mean() / weight.square().mean()
    assert noise < 1e-4, "40 dB"
    assert packed_rows("b", torch.ones(8))["b"].dtype == torch.float16
