"""What the engine is taken through on the simulated device: steps as runs make them, and what a step costs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.choices import ControlOrder
from sana_cli.models.sana_transformer import TextContext
from tests.rehearsal.device import Device
from tests.unit.accelerate.cuda.models import controlled_inputs, controlnet, inputs, transformer

QK_NORM = {"qk_norm": "rms_norm_across_heads"}
LIMIT = 5e-3  # w8a8: an fp32 rounding moves a few values to the next integer
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "qk norm": QK_NORM,
    "positions": {"interpolation_scale": 2.0},
    "sprint": QK_NORM | {"guidance_embeds": True},
}


def on_device(contexts: Sequence[TextContext]) -> list[TextContext]:
    return [
        TextContext(
            c.batch,
            *([t.cuda() for t in tensors] for tensors in (c.keys, c.values, c.constants)),
            None if c.mask is None else c.mask.cuda(),
            None if c.control is None else on_device([c.control])[0],
        )
        for c in contexts
    ]


def rehearse(
    scheme: str = "none", dtype: torch.dtype = torch.float32, *, prompts: int = 4, **config: Any
) -> tuple[float, list[str]]:
    """Draw steps as runs do: timesteps, prompts, branches and sizes change. The largest error of all, and notices."""
    torch.manual_seed(0)
    model, untouched = (transformer(scheme, dtype=dtype, **config) for _ in range(2))
    notices: list[str] = []
    of_texts = (((1, 5), 3), ((1, 30), 3), ((4, 9), 3), ((1, 5), 5))  # lengths of two texts, height
    given = [inputs(untouched, lengths, h=h) for lengths, h in of_texts[:prompts]]
    model.cuda()
    model.engine = Engine(model, notice=notices.append)
    worst = 0.0
    guidance = 0.45 if "guidance_embeds" in config else None
    for latents, contexts in given:
        texts = on_device(contexts)
        for step, timestep in enumerate((999.0, 700.0, 300.0, 10.0)):
            branches = slice(1, None) if step == 3 else slice(None)  # guidance within an interval
            needed = latents[branches] * (1 + step)
            expected = untouched.velocity(needed, timestep, contexts[branches], guidance)
            out = model.velocity(needed.cuda(), timestep, texts[branches], guidance)
            worst = max(worst, relative_error(out.cpu(), expected))
    return worst, notices


def rehearse_further(
    scheme: str = "none",
    *,
    order: ControlOrder | None = None,
    perturbed_layer: int | None = None,
    pictures: int = 3,
    dtype: torch.dtype = torch.float32,
) -> tuple[float, list[str]]:
    """Draw steps with a ControlNet (in an order), a perturbed branch, or both; drawings and scales change.

    The largest error of all, and notices.
    """
    model, untouched = (transformer(scheme, dtype=dtype, layers=4) for _ in range(2))
    nets = [controlnet(m, order or ControlOrder.TRAINED, scheme) for m in (untouched, untouched)]
    given = [
        controlled_inputs(untouched, nets[1], seed=seed, scale=scale)
        for seed, scale in ((1, 1.0), (2, 0.4), (3, 1.0))
    ][:pictures]
    notices: list[str] = []
    model.cuda()
    nets[0].cuda()
    model.engine = Engine(model, notice=notices.append)
    worst = 0.0
    for latents, contexts, control in given:
        texts = on_device(contexts)
        there = replace(control, net=nets[0], tokens=control.tokens.cuda())
        for step, timestep in enumerate((999.0, 700.0, 300.0)):
            options = {
                "perturbed_layer": perturbed_layer if step < 2 else None,  # NVIDIA's is off near the end
                "control": control if order else None,
            }  # fmt: skip
            needed = latents * (1 + step)
            expected = untouched.velocity(needed, timestep, contexts, **options)
            options["control"] = there if order else None
            out = model.velocity(needed.cuda(), timestep, texts, **options)
            worst = max(worst, relative_error(out.cpu(), expected))
    return worst, notices


def costs(gpu: Device) -> list[dict[str, int]]:
    """The operations of steps of one picture, step by step."""
    model = transformer().cuda()
    latents, contexts = inputs(transformer())
    notices: list[str] = []
    model.engine = Engine(model, notice=notices.append)
    latents, texts = latents.cuda(), on_device(contexts)
    found = []
    for timestep in (700.0, 300.0, 700.0):
        gpu.counts.clear()
        model.velocity(latents, timestep, texts)
        found.append(dict(gpu.counts))
    assert notices == []
    return found


def keeps_velocities() -> bool:
    """Return whether a velocity stays as it was when the next is computed: samplers keep those of earlier steps."""
    model = transformer().cuda()
    latents, contexts = inputs(transformer())
    model.engine = Engine(model, notice=lambda line: None)
    first = model.velocity(latents.cuda(), 700.0, on_device(contexts))
    kept = first.clone()
    model.velocity(latents.cuda() * 2, 300.0, on_device(contexts))
    return torch.equal(first, kept)
