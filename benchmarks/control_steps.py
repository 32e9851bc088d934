"""Time what a ControlNet and perturbed attention add to a guided step, and compare with what their parts cost.

`python -m benchmarks.control_steps [--width 0.25] [--rounds 45]`. Random weights of the published shapes, narrower by
`--width` so that a step takes seconds; ratios of operations hardly depend on it.

Operations alone predict the time badly: a large product, a depthwise convolution and a norm need different times for one
operation. So each part is weighed by what its own kind took in the same rounds: a copied block as a block of the base (the
step less a step of fewer blocks), a residual as its own product, a row of the perturbed branch as a third row of the
whole step. Contenders take turns in a process set up as `sana`'s, forwards and backwards. Processor seconds (one thread)
are compared within a round, since caches and clock rates differ more from minute to minute, and the median round
counts. Writes control-steps.json.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.denoise_step import TEXT_TOKENS, no_initialisation, random_transformer
from benchmarks.record import record
from sana_cli.bench.machine import machine
from sana_cli.config.choices import ControlOrder, Pag
from sana_cli.config.networks import ControlNetConfig, TransformerConfig
from sana_cli.config.variants import VARIANTS
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from sana_cli.pipeline.guidance import guided_velocity
from sana_cli.system.allocator import keeping_freed, set_up_allocator

BRANCH_BLOCKS = 7  # of the published ControlNets
PAG_LAYERS = {"sana-0.6b": 14, "sana-1.6b": 8}  # NVIDIA's
TOLERANCE = 0.1  # of what is added

Step = Callable[[], Any]


def narrower(config: TransformerConfig, width: float) -> TransformerConfig:
    """The same blocks with a share of the heads."""
    heads = max(1, round(config.num_attention_heads * width))
    cross = max(1, round(config.num_cross_attention_heads * width))
    inner = heads * config.attention_head_dim
    while inner % cross:
        cross -= 1
    return replace(
        config, num_attention_heads=heads, num_cross_attention_heads=cross,
        cross_attention_head_dim=inner // cross, cross_attention_dim=inner,
    )  # fmt: skip


def random_controlnet(base: SanaTransformer2D) -> SanaControlNet:
    """A branch of 7 blocks with lively values."""
    blocks = replace(base.config, num_layers=BRANCH_BLOCKS)
    with no_initialisation():
        net = SanaControlNet(ControlNetConfig(blocks=blocks, order=ControlOrder.TRAINED))
    generator = torch.Generator().manual_seed(2)
    for parameter in net.eval().requires_grad_(False).parameters():
        wide = parameter.ndim > 1
        scale = 0.7 / parameter[0].numel() ** 0.5 if wide else 0.1
        parameter.normal_(std=scale, generator=generator)
    return net


def contenders(alias: str, width: float, size: int) -> dict[str, Step]:
    """A guided step: plain, with a ControlNet, with a perturbed branch; and the parts that those are made of."""
    model = random_transformer(
        narrower(TransformerConfig(**asdict(VARIANTS[alias].structure)), width)
    )
    net, config = random_controlnet(model), model.config
    generator = torch.Generator().manual_seed(1)
    shape = (1, config.in_channels, size // 32, size // 32)
    latents, drawing = (torch.randn(shape, generator=generator) for _ in range(2))
    text = torch.randn(1, TEXT_TOKENS, config.caption_channels, generator=generator)

    def context(embeds: torch.Tensor) -> TextContext:
        return replace(model.encode_text(embeds), control=net.encode_text(embeds))

    contexts = [context(text[:, :2]), context(text)]
    control = ActiveControl(
        net=net, tokens=net.encode_control(drawing), scale=1.0, order=ControlOrder.TRAINED
    )

    def step(**further: Any) -> Step:
        return lambda: guided_velocity(
            model, contexts, latents, 700.0, guidance_scale=4.5, **further
        )

    def three_rows() -> torch.Tensor:
        three = latents.expand(3, -1, -1, -1)
        return model.velocity(three, 700.0, [*contexts, contexts[-1]])

    def fewer_blocks() -> torch.Tensor:
        blocks = model.transformer_blocks
        model.transformer_blocks = blocks[BRANCH_BLOCKS:]
        try:
            return step()()
        finally:
            model.transformer_blocks = blocks

    tokens = torch.randn(2, shape[-1] ** 2, config.inner_dim, generator=generator)

    def residuals() -> torch.Tensor:
        x = tokens
        for product in net.controlnet_blocks:
            x = tokens + product(x) * control.scale
        return x

    pag = Pag(scale=2.0, layer=PAG_LAYERS[alias])
    return {
        "plain": step(), "control": step(control=control), "pag": step(pag=pag),
        "fewer blocks": fewer_blocks, "residuals": residuals, "three rows": three_rows,
    }  # fmt: skip


def operations(step: Step) -> int:
    """Floating-point operations of the products in a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def timed(steps: dict[str, Step], rounds: int) -> list[dict[str, float]]:
    """Processor seconds of each, by round."""
    found = []
    with keeping_freed():
        for number in range(rounds):
            seconds = {}
            for name in list(steps) if number % 2 else reversed(steps):
                started = time.process_time()
                steps[name]()
                seconds[name] = time.process_time() - started
            found.append(seconds)
    return found


def weighed(seconds: dict[str, float], *, blocks: int, pag_layer: int) -> dict[str, float]:
    """Ratios to a plain step of what the parts of control and of perturbed attention took by themselves."""
    plain = seconds["plain"]
    copied = plain - seconds["fewer blocks"] + seconds["residuals"]
    perturbed = (seconds["three rows"] - plain) * (blocks - pag_layer) / blocks
    return {"control": 1 + copied / plain, "pag": 1 + perturbed / plain}


def measured(alias: str, steps: dict[str, Step], rounds: int) -> dict[str, Any]:
    """Ratios to a plain step: of operations, of the parts' processor seconds, and of its own."""
    counted = {name: operations(step) for name, step in steps.items()}  # also warms up
    seconds = timed(steps, rounds)
    blocks = VARIANTS[alias].structure.num_layers
    wanted = [weighed(each, blocks=blocks, pag_layer=PAG_LAYERS[alias]) for each in seconds]
    found: dict[str, Any] = {
        "seconds": {name: round(median(each[name] for each in seconds), 4) for name in steps}
    }
    for name in wanted[0]:
        by_operations = counted[name] / counted["plain"]
        expected = median(each[name] for each in wanted)
        ratio = median(each[name] / each["plain"] for each in seconds)
        found[name] = {
            "operations": round(by_operations, 4), "by_parts": round(expected, 4),
            "processor_seconds": round(ratio, 4),
            "within_a_tenth": abs(ratio - expected) <= TOLERANCE * (expected - 1),
        }  # fmt: skip
        if name == "pag":  # in branches, of which a guided step has two
            found[name] |= {
                "branches_by_operations": round(2 * by_operations, 3),
                "branches": round(2 * ratio, 3),
            }
    return found


def main(
    width: Annotated[
        float, typer.Option(help="Share of the published width.", min=0.05, max=1)
    ] = 0.25,
    size: Annotated[int, typer.Option(help="Pixels, square.")] = 512,
    rounds: Annotated[int, typer.Option(min=1)] = 45,
) -> None:
    """Time a guided step plain, with a ControlNet and with a perturbed branch, interleaved."""
    set_up_allocator()
    torch.set_num_threads(1)  # processor seconds of threads that wait for one another would count
    models = {}
    with torch.inference_mode():
        for alias in PAG_LAYERS:
            models[alias] = measured(alias, contenders(alias, width, size), rounds)
            print(f"{alias}: {json.dumps(models[alias])}", flush=True)
    document = {
        "width": width,
        "size": size,
        "rounds": rounds,
        "machine": machine(),
        "models": models,
    }
    record("control-steps", document)


if __name__ == "__main__":
    typer.run(main)
