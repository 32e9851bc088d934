"""A whole picture of full-size Sana-0.6B beside diffusers, from pieces: CPU seconds of one thread, in turns.

`python -m benchmarks.peers [--rounds 2]` times layers of full width with random weights: a few of Gemma's and of the
transformer's, and the whole decoder at 256 pixels. From these it extrapolates a picture of 512 pixels, 20 steps, guided, by the
number of layers, steps and pixels. For machines that are too small or too busy for `sana bench --compare diffusers`, which
times the real thing. The document goes to `benchmarks/results/peers-cpu.json`.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from typing import Annotated, Any

import torch
import typer
from torch import nn

from benchmarks.denoise_step import no_initialisation, random_transformer, step_inputs
from benchmarks.record import record
from quant.convert import quantize_
from sana_cli.bench.machine import machine
from sana_cli.bench.work import GEMMA_2_2B
from sana_cli.config import DCAEConfig, Gemma2Config, TransformerConfig
from sana_cli.loading import TOKEN_CONVS, accelerate
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.gemma2 import Gemma2
from sana_cli.recipes import RECIPES, component_recipe
from sana_cli.variants import VARIANTS

_TEXT_LAYERS, _BLOCKS, _DECODED = 1, 2, 256  # what is timed; pixels
_PICTURE, _STEPS = 512, 20  # what is extrapolated
_CPU = torch.device("cpu")
# diffusers pads: the instruction and 300 tokens, and 300 for the empty negative prompt. We run what is there.
_PADDED, _REAL = (519, 300), (259, 1)
_SCALE = {
    "text": GEMMA_2_2B["num_hidden_layers"] / _TEXT_LAYERS,
    "denoise": 28 / _BLOCKS * _STEPS,
    "decode": (_PICTURE / _DECODED) ** 2,
}


def _randomize(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.7 / parameter[0].numel() ** 0.5)
        else:
            parameter.fill_(0.5)
    return model.eval().requires_grad_(False)


def _ready(model: nn.Module, component: str, recipe: str | None) -> nn.Module:
    """As loading leaves it: quantized or not, on the fastest kernels."""
    if recipe is not None:
        quantize_(
            model, component_recipe(component, RECIPES[recipe][component]), token_convs=TOKEN_CONVS
        )
    accelerate(model, _CPU, "auto")
    return model


def text(recipe: str | None, *, ours: bool) -> Callable[[], Any]:
    """A few of Gemma's layers over both prompts."""
    config = {**GEMMA_2_2B, "num_hidden_layers": _TEXT_LAYERS, "vocab_size": 1000}
    ids = [torch.ones(1, count, dtype=torch.long) for count in (_REAL if ours else _PADDED)]
    if ours:
        trunk = _randomize(Gemma2(Gemma2Config.from_dict(config)))
        model = _ready(trunk, "text_encoder", recipe)
        return lambda: [model(tokens) for tokens in ids]
    import transformers

    peer: Any = _randomize(transformers.Gemma2Model(transformers.Gemma2Config(**config)))
    return lambda: [peer(tokens, use_cache=False) for tokens in ids]


def _transformer_config() -> TransformerConfig:
    config = TransformerConfig(**asdict(VARIANTS["sana-0.6b"].structure))
    return replace(config, num_layers=_BLOCKS)


def denoise(recipe: str | None, *, ours: bool) -> Callable[[], Any]:
    """A few blocks of the transformer, both branches."""
    if ours:
        model: Any = random_transformer(_transformer_config())
        inputs = step_inputs(model, _PICTURE)
        model = _ready(model, "transformer", recipe)
        return lambda: model(*inputs)
    from diffusers import SanaTransformer2DModel

    known = {"guidance_embeds_scale", "timestep_scale"}
    values = {k: v for k, v in asdict(_transformer_config()).items() if k not in known}
    peer: Any = _randomize(SanaTransformer2DModel(**values))
    latents, embeds = torch.randn(2, 32, _PICTURE // 32, _PICTURE // 32), torch.randn(2, 300, 2304)
    mask = (torch.arange(300) < torch.tensor([[1], [40]])).float()
    return lambda: peer(latents, embeds, torch.full((2,), 700.0), encoder_attention_mask=mask)


def decode(recipe: str | None, *, ours: bool) -> Callable[[], Any]:
    """The whole decoder on a smaller picture."""
    latents = torch.randn(1, 32, _DECODED // 32, _DECODED // 32)
    if ours:
        with no_initialisation():
            vae: Any = AutoencoderDC(DCAEConfig())
        vae = _ready(_randomize(vae), "vae", recipe)
    else:
        from diffusers import AutoencoderDC as Peer

        with no_initialisation():
            vae = Peer(**asdict(DCAEConfig()))
        vae = _randomize(vae)
    return lambda: vae.decode(latents)


def cpu_seconds(run: Callable[[], Any]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def main(rounds: Annotated[int, typer.Option(help="Each times everyone once.")] = 2) -> None:
    """Time, extrapolate, print and keep."""
    torch.set_num_threads(1)
    contenders: dict[str, tuple[str | None, bool]] = {
        "diffusers fp32": (None, False), "sana fp32": (None, True), "sana w8a8": ("w8a8", True),
    }  # fmt: skip
    timed: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    with torch.no_grad():
        for stage, build in (("text", text), ("denoise", denoise), ("decode", decode)):
            runs = {name: build(recipe, ours=ours) for name, (recipe, ours) in contenders.items()}
            for i in range(rounds + 1):  # the first round warms up
                for name, run in runs.items():
                    seconds = cpu_seconds(run)
                    if i:
                        timed[name].setdefault(stage, []).append(seconds)
            runs.clear()
    rows = {name: _row(stages, timed["diffusers fp32"]) for name, stages in timed.items()}
    document = {
        "benchmark": "peers",
        "date": date.today().isoformat(),
        "machine": machine() | {"threads": 1},
        "what": f"sana-0.6b, random weights, {_PICTURE} px, {_STEPS} steps, guided; CPU seconds of one thread",
        "extrapolated": f"from {_TEXT_LAYERS} of 26 layers of Gemma, {_BLOCKS} of 28 blocks in one step, "
        f"the decoder at {_DECODED} px",
        "rows": rows,
    }
    record("peers-cpu", document)
    print(json.dumps(document, indent=1))


def _row(stages: dict[str, list[float]], base: dict[str, list[float]]) -> dict[str, Any]:
    pictures = [_picture(stages, i) for i in range(len(stages["text"]))]
    ratios = [_picture(base, i) / seconds for i, seconds in enumerate(pictures)]
    return {
        "timed": {s: round(statistics.median(v), 4) for s, v in stages.items()},
        "picture": {s: round(statistics.median(v) * _SCALE[s], 1) for s, v in stages.items()}
        | {"total": round(statistics.median(pictures), 1)},
        "times_as_fast_as_diffusers": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }


def _picture(stages: dict[str, list[float]], i: int) -> float:
    return sum(values[i] * _SCALE[stage] for stage, values in stages.items())


if __name__ == "__main__":
    typer.run(main)
