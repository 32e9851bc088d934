"""The engine's forward against the model's: on definitions of kernels anywhere, on kernels under the interpreter."""

import gc
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from quant.backends.verdicts import remembered
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.kernels import REFERENCE, TRITON, Kernels
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.choices import ControlOrder
from sana_cli.loading.lora import LoraLinear
from sana_cli.models.block_cache import FirstBlockCache
from sana_cli.models.sana_transformer import SanaTransformer2D, TextContext
from tests.faults import raising
from tests.unit.accelerate.cuda.models import (
    CAPTION,
    controlled_inputs,
    controlnet,
    inputs,
    transformer,
)

QK_NORM = {"qk_norm": "rms_norm_across_heads"}
FP32 = 2e-5  # sums in another order, over two blocks


def by_the_model(
    model: SanaTransformer2D,
    latents: Tensor,
    contexts: Sequence[TextContext],
    guidance: float | None = None,
) -> Tensor:
    t = torch.full((len(latents),), 700.0)
    return model(latents, t, contexts, None if guidance is None else torch.tensor([guidance]))


def by_the_engine(
    model: SanaTransformer2D,
    latents: Tensor,
    contexts: Sequence[TextContext],
    guidance: float | None = None,
    kernels: Kernels = REFERENCE,
) -> Tensor:
    engine = EngineTransformer(model, kernels)
    condition, text = engine.condition(700.0, guidance), StepInputs(engine.text(contexts))
    return engine.forward(latents, condition, text, engine.positions(*latents.shape[-2:]))


def error(model: SanaTransformer2D, lengths: tuple[int, ...] = (1, 5), **rest: Any) -> float:
    """Of the engine, relative to the model; the model runs first, on weights that nothing joined."""
    latents, contexts = inputs(model, lengths)
    expected = by_the_model(model, latents, contexts, rest.get("guidance"))
    out = by_the_engine(model, latents, contexts, **rest)
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    return relative_error(out, expected)


@pytest.mark.parametrize("way", ["on load", "apart"])
def test_quantizing_in_the_way_that_was_measured(way: str, tmp_path: Path) -> None:
    """Both give the same integers."""
    model, path = transformer("w8a8"), tmp_path / "verdicts.json"
    latents, contexts = inputs(model)
    expected = model.velocity(latents, 700.0, contexts)
    cpu = torch.device("cpu")
    remembered(f"quantizing for (64, 64) {torch.float32}", cpu, lambda: way, verdicts=path)
    model.engine = Engine(
        model, notice=pytest.fail, verdicts=path, candidates=REFERENCE, graphs=False
    )
    parts = [block.text.out for block in model.engine.transformer.blocks]
    assert [part.quantizes_apart for part in parts] == [way == "apart"] * 2
    assert relative_error(model.velocity(latents, 700.0, contexts), expected) < 5e-3


@pytest.mark.parametrize("smooth", [False, True], ids=["plain", "smooth"])
@pytest.mark.parametrize("config", [{}, QK_NORM], ids=str)
@pytest.mark.parametrize("lengths", [(1, 5), (3, 5), (1,), (5, 1), (3, 1, 5)], ids=str)
def test_f8a8(lengths: tuple[int, ...], config: dict[str, Any], smooth: bool) -> None:
    """Roundings to 8-bit floats move with the last bit of fp32, by a sixteenth of a value."""
    model = transformer("f8a8", smooth=smooth, **config)
    assert error(model, lengths) < 5e-3
    parts = EngineTransformer(model, REFERENCE).projections.split()
    assert parts == ["Float8Projection"]


@pytest.mark.parametrize(
    ("lengths", "config"),
    [
        ((1, 5), {}),  # guidance with an empty negative prompt
        ((3, 5), {}),  # and with a negative prompt
        ((5,), {}),
        ((1,), {}),
        ((1, 5), QK_NORM),
        ((5,), QK_NORM | {"guidance_embeds": True}),
        ((1, 5), {"interpolation_scale": 2.0}),
        ((1, 5), {"attention_bias": True}),
    ],
    ids=str,
)
def test_fp32(lengths: tuple[int, ...], config: dict[str, Any]) -> None:
    guidance = 0.45 if "guidance_embeds" in config else None
    assert error(transformer(**config), lengths, guidance=guidance) < FP32


@pytest.mark.parametrize("config", [{}, QK_NORM], ids=["plain", "qk norm"])
@pytest.mark.parametrize("smooth", [False, True], ids=["", "smooth"])
def test_w8a8(config: dict[str, Any], smooth: bool) -> None:
    """The same integers but where an fp32 rounding moves a value across .5: one of thousands."""
    assert error(transformer("w8a8", smooth=smooth, **config)) < 5e-3


@pytest.mark.parametrize("config", [{}, QK_NORM], ids=["plain", "qk norm"])
def test_w8a8_with_prompts_of_several_lengths(config: dict[str, Any]) -> None:
    """Two pictures in one context, whose texts are padded to one length."""
    model = transformer("w8a8", **config)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    context = model.encode_text(torch.randn(2, 5, CAPTION), mask)
    latents = torch.randn(2, 4, 3, 4)
    expected = by_the_model(model, latents, [context])
    assert relative_error(by_the_engine(model, latents, [context]), expected) < 5e-3


@pytest.mark.parametrize("scheme", ["w8a16", "w4a16-g64"])
def test_other_schemes_keep_their_layers(scheme: str) -> None:
    assert error(transformer(scheme)) < FP32


def test_loras_beside_quantized_layers() -> None:
    model = transformer("w8a8")
    latents, contexts = inputs(model)
    before = by_the_model(model, latents, contexts)
    for block in model.transformer_blocks:
        for parent, name in (
            (block.attn1, "to_q"),
            (block.ff, "conv_inverted"),
            (block.ff, "conv_point"),
        ):
            layer = getattr(parent, name)
            down = torch.randn(3, layer.in_features) / layer.in_features**0.5
            setattr(parent, name, LoraLinear(layer, down, torch.randn(layer.out_features, 3)))
    assert error(model) < 5e-3
    assert relative_error(by_the_model(model, latents, contexts), before) > 0.05


def test_mixed_schemes() -> None:
    """A layer that calibration kept in floating point among quantized ones: nothing can be joined."""
    model, plain = transformer("w8a8"), transformer()
    attn = model.transformer_blocks[0].attn1
    attn.to_k = plain.transformer_blocks[0].attn1.to_k
    model.transformer_blocks[1].ff.conv_point = plain.transformer_blocks[1].ff.conv_point
    model.transformer_blocks[1].attn2.to_out = plain.transformer_blocks[1].attn2.to_out
    assert error(model) < 5e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scheme", ["none", "w8a8"])
def test_half_precision(scheme: str, dtype: torch.dtype) -> None:
    """No further from fp32 than the model itself is: modulation and norms are fp32 in the engine."""
    model = transformer(scheme, dtype=dtype)
    latents, contexts = inputs(model)
    ours = by_the_engine(model, latents, contexts)
    theirs = by_the_model(model, latents, contexts)
    exact = by_the_model(transformer(), *inputs(transformer()))
    assert relative_error(ours, exact) < 1.2 * relative_error(theirs, exact)


def test_joined_weights_are_held_once() -> None:
    """Queries, keys and values become views of one tensor, and the model still runs on them."""
    for scheme, name in (("none", "weight"), ("w8a8", "qweight")):
        model = transformer(scheme)
        latents, contexts = inputs(model)
        before = by_the_model(model, latents, contexts)
        EngineTransformer(model, REFERENCE)
        attn = model.transformer_blocks[0].attn1
        storages = {
            getattr(layer, name).untyped_storage().data_ptr()
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        }
        assert len(storages) == 1
        assert relative_error(by_the_model(model, latents, contexts), before) < 1e-6


def on_kernels(scheme: str, dtype: torch.dtype, config: dict[str, Any]) -> float:
    """In the interpreter's process."""
    with torch.inference_mode():
        model = transformer(scheme, dtype=dtype, layers=1, **config)
        latents, contexts = inputs(model, h=2, w=2)
        on_definitions = by_the_engine(model, latents, contexts)
        out = by_the_engine(model, latents, contexts, kernels=TRITON)
        return relative_error(out, on_definitions)


@pytest.mark.parametrize(
    ("scheme", "dtype", "config", "limit"),
    [
        ("none", torch.float32, {}, FP32),
        ("w8a8", torch.float32, QK_NORM, 5e-3),
        ("w8a8", torch.float16, {}, 5e-3),
    ],
    ids=["fp32", "w8a8 qk norm", "w8a8 fp16"],
)
def test_on_kernels(
    interpreted: Callable[..., Any],
    scheme: str,
    dtype: torch.dtype,
    config: dict[str, Any],
    limit: float,
) -> None:
    assert interpreted(on_kernels, scheme, dtype, config) < limit


# -- the engine in a model's place --------------------------------------------------------------------


def engine(model: SanaTransformer2D, **rest: Any) -> tuple[Engine, list[str]]:
    """Without graphs, on definitions, and what it had to say."""
    notices: list[str] = []
    options: dict[str, Any] = {"candidates": REFERENCE, "graphs": False} | rest
    return Engine(model, notice=notices.append, **options), notices


def test_it_takes_the_models_place() -> None:
    """Timesteps, texts and sizes change between calls; everything follows."""
    model, untouched = transformer(), transformer()
    model.engine, notices = engine(model)
    for lengths, h, timestep in (((1, 5), 3, 999.0), ((1, 5), 3, 10.0), ((2, 7), 2, 10.0)):
        latents, contexts = inputs(model, lengths, h=h)
        expected = untouched.velocity(latents, timestep, contexts)
        for _ in range(2):
            out = model.velocity(latents, timestep, contexts)
            assert relative_error(out, expected) < FP32
    assert notices == []


def test_a_model_is_freed_with_its_engine() -> None:
    """At once, not when garbage is next collected: the text encoder may be loaded in its place."""
    model = transformer()
    model.engine, _ = engine(model)
    latents, contexts = inputs(model)
    model.velocity(latents, 700.0, contexts)
    weight = weakref.ref(model.transformer_blocks[0].attn1.to_q)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


def outside_of_its_trial(kernel: Callable[[Tensor], Tensor]) -> Kernels:
    """Kernels of which one is right where it is tried, on 12 x 12 positions, and does something else on all others."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = REFERENCE.relu_linear_attention(q, k, v)
        return out if q.shape[1] == 144 else kernel(out)

    return replace(REFERENCE, relu_linear_attention=attention)


def test_a_wrong_forward_is_not_used(tmp_path: Any) -> None:
    """The first velocity is compared with the model's; the verdict is remembered."""
    model, untouched = transformer(), transformer()
    wrong = outside_of_its_trial(lambda out: -out)
    model.engine, notices = engine(model, verdicts=tmp_path / "verdicts.json", candidates=wrong)
    latents, contexts = inputs(model)
    out = model.velocity(latents, 700.0, contexts)
    assert torch.equal(out, untouched.velocity(latents, 700.0, contexts))
    (first,) = notices
    assert first.startswith("the engine is wrong by ")
    assert first.endswith(" on this device; plain PyTorch runs instead")
    model.engine, notices = engine(model, verdicts=tmp_path / "verdicts.json")
    model.velocity(latents, 700.0, contexts)
    assert notices == [first]


def test_a_forward_that_fails_is_not_used() -> None:
    model, untouched = transformer(), transformer()
    fails = outside_of_its_trial(raising(AssertionError("libcuda.so cannot found!")))
    model.engine, notices = engine(model, candidates=fails)
    latents, contexts = inputs(model)
    out = model.velocity(latents, 700.0, contexts)
    assert torch.equal(out, untouched.velocity(latents, 700.0, contexts))
    assert notices == [
        "the engine fails (libcuda.so cannot found!) on this device; plain PyTorch runs instead"
    ]


@pytest.mark.parametrize(
    "other",
    [{"layers": 3}, {"guidance_embeds": True}, {"interpolation_scale": 2.0}, {"h": 6}],
    ids=str,
)
def test_another_structure_or_size_is_compared_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    compared: list[int] = []

    def called(module: torch.nn.Module, inputs: Any) -> None:
        """The model's own blocks run where it is compared with, and nowhere else."""
        if module is model.transformer_blocks[0]:
            compared.append(1)

    for config, expected in (({}, 1), ({}, 1), (other, 2)):
        h = config.get("h", 3)
        model = transformer(**{k: v for k, v in config.items() if k != "h"})
        model.engine, _ = engine(model, verdicts=tmp_path / "verdicts.json")
        latents, contexts = inputs(model, h=h)
        guidance = 0.45 if "guidance_embeds" in config else None
        with register_module_forward_pre_hook(called):
            for _ in range(2):
                model.velocity(latents, 700.0, contexts, guidance)
        assert len(compared) == expected


def test_without_a_graph_kernels_are_launched_one_by_one() -> None:
    """Here there is no device to capture on: the same way out as for a capture that fails."""
    model, untouched = transformer(), transformer()
    model.engine, notices = engine(model, graphs=True)
    latents, contexts = inputs(model)
    for _ in range(2):
        out = model.velocity(latents, 700.0, contexts)
        assert relative_error(out, untouched.velocity(latents, 700.0, contexts)) < FP32
    assert len(notices) == 1
    assert notices[0].startswith("no CUDA graph (")


@pytest.mark.parametrize("scheme", ["none", "w8a8"])
@pytest.mark.parametrize(
    ("thresholds", "computed"),
    [((0.0, 0.0), 6), ((0.05, 0.05), 2), ((0.05, 0.0), 4), ((0.0, 0.05), 4)],
    ids=["nothing is reused", "both branches", "the first alone", "the second alone"],
)
def test_caches_do_what_they_do_in_the_model(
    scheme: str, thresholds: tuple[float, float], computed: int
) -> None:
    """Three steps that hardly differ, of two pictures a branch; each branch decides for itself."""
    model, untouched = transformer(scheme, layers=3), transformer(scheme, layers=3)
    model.engine = Engine(model, notice=pytest.fail, candidates=REFERENCE, graphs=False)
    generator = torch.Generator().manual_seed(2)
    contexts = [
        untouched.encode_text(torch.randn(2, length, CAPTION, generator=generator))
        for length in (1, 5)
    ]
    latents = torch.randn(4, 4, 3, 4, generator=generator)
    ours, theirs = ([FirstBlockCache(limit) for limit in thresholds] for _ in range(2))
    for step in range(3):
        now = latents * (1 + 0.001 * step)
        out = model.velocity(now, 700.0, contexts, caches=ours)
        expected = untouched.velocity(now, 700.0, contexts, caches=theirs)
        assert relative_error(out, expected) < (FP32 if scheme == "none" else 5e-3)
    assert [c.reused for c in ours] == [c.reused for c in theirs]
    assert 6 - sum(c.reused for c in ours) == computed


@pytest.mark.parametrize("order", ControlOrder)
def test_caches_beside_a_controlnet(order: ControlOrder) -> None:
    """A drawing acts from the second block on: a branch that is reused takes none."""
    model, untouched = transformer(layers=4), transformer(layers=4)
    nets = [controlnet(untouched, order) for _ in range(2)]
    model.engine = Engine(model, notice=pytest.fail, candidates=REFERENCE, graphs=False)
    latents, contexts, control = controlled_inputs(untouched, nets[1], seed=1, scale=0.7)
    ours, theirs = ([FirstBlockCache(0.0), FirstBlockCache(0.05)] for _ in range(2))
    for step in range(2):
        now = latents * (1 + 0.001 * step)
        here = replace(control, net=nets[0])
        out = model.velocity(now, 700.0, contexts, caches=ours, control=here)
        expected = untouched.velocity(now, 700.0, contexts, caches=theirs, control=control)
        assert relative_error(out, expected) < FP32
    assert [c.reused for c in ours] == [c.reused for c in theirs] == [0, 1]


def test_an_engine_that_is_wrong_in_parts_runs_no_caches() -> None:
    """It is compared before use, with caches of its own."""
    model, untouched = transformer(), transformer()
    notices: list[str] = []
    wrong = replace(REFERENCE, layer_norm_modulate=_half)
    model.engine = Engine(model, notice=notices.append, candidates=wrong, graphs=False)
    model.engine.kernels = model.engine.transformer.kernels = wrong  # past the trial of each
    latents, contexts = inputs(untouched)
    ours, theirs = ([FirstBlockCache(1.0), FirstBlockCache(1.0)] for _ in range(2))
    for _ in range(2):
        out = model.velocity(latents, 700.0, contexts, caches=ours)
        assert torch.equal(out, untouched.velocity(latents, 700.0, contexts, caches=theirs))
    assert [c.reused for c in ours] == [1, 1]
    assert any("plain PyTorch runs instead" in notice for notice in notices)


def _half(*arguments: Any, **named: Any) -> Tensor:
    return REFERENCE.layer_norm_modulate(*arguments, **named) / 2
