"""What is distilled begins as its teacher and is stored as it is measured."""

from pathlib import Path

import pytest
import torch

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.packed_weights import SCALE
from sana_cli.images.comparison_sheet import psnr_db
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


def test_training_resumes_from_a_few_step_model() -> None:
    from training.distil_steps import student_from

    device = torch.device("cpu")
    teacher = open_checkpoint("builtin").transformer
    found = student_from("builtin-sprint", teacher, device).state_dict()
    shipped = load_transformer(open_checkpoint("builtin-sprint"), dtype="fp32", device=device)
    for name, value in shipped.state_dict().items():
        assert torch.equal(found[name], value), name
    with pytest.raises(ValueError, match="another network"):
        student_from("builtin", teacher, device)


class _OnePicture:
    """The teacher of data that is one picture d: its paths, cos(t) d + sin(t) noise, are known."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data = data

    def contexts(self, embeds: torch.Tensor, mask: torch.Tensor) -> list[object]:
        return []

    def guided(self, flow_x: torch.Tensor, s: torch.Tensor, *_: object) -> torch.Tensor:
        """noise - data at the noise level s."""
        s = s[:, None, None, None]
        return (flow_x - (1 - s) * self.data) / s - self.data

    def slope(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """F of the consistent student: dx/dt."""
        cos, sin = (f(angle)[:, None, None, None] for f in (torch.cos, torch.sin))
        return cos * (x - cos * self.data) / sin - sin * self.data


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_consistent_student_has_nothing_to_learn(weight: float) -> None:
    """And the loss of one that is off falls where it moves towards the consistent one."""
    from training.distil_steps import consistency_loss

    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    angle = torch.tensor([0.5, 1.0, 1.5])
    cos, sin = (f(angle)[:, None, None, None] for f in (torch.cos, torch.sin))
    x, teacher = cos * data + sin * noise, _OnePicture(data)
    text = (torch.zeros(3, 1, 4), torch.ones(3, 1, dtype=torch.bool), torch.full((3,), 4.0))

    def loss(off: torch.Tensor) -> torch.Tensor:
        def student(x: torch.Tensor, angle: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return teacher.slope(x, angle) + off

        return consistency_loss(student, teacher, x, angle, text, weight=weight)

    assert loss(torch.zeros_like(x)) < 1e-3
    off = torch.ones_like(x, requires_grad=True)
    found = loss(off)
    found.backward()
    assert found > 0.2
    assert (off.grad > 0).all(), "less of what is too much"


def test_a_run_is_scored_without_an_export(tmp_path: Path) -> None:
    from training.distil_steps import TrigFlow, student_from
    from training.evaluate import load_painter
    from training.runs import Ema, save_checkpoint

    student = student_from(
        "builtin-sprint", open_checkpoint("builtin").transformer, torch.device("cpu")
    )
    save_checkpoint(tmp_path / "sprint.pt", {"ema": Ema(TrigFlow(student), decay=0.9).state_dict()})
    images = [
        load_painter(model, steps=1).paint(["a red car"], [3])
        for model in ("builtin-sprint", str(tmp_path / "sprint.pt"))
    ]
    assert psnr_db(*images) > 50
    assert psnr_db(images[0], 255 - images[0]) < 15
