"""Parts of a model: which are in memory when, and what remains of one whose loading failed."""

import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quant.config import QuantConfig
from quant.convert import quantized_layer
from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers
from sana_cli.checkpoints.lora_file import open_loras
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.components import NETWORKS
from sana_cli.errors import SanaError
from sana_cli.pipeline.components import (
    Components,
    _calls_of,
    accelerate_with_notice,
    plan_decode,
)
from sana_cli.pipeline.pipeline import SanaPipeline
from sana_cli.request.params import GenerationParams
from sana_cli.request.runtime import RuntimeOptions
from sana_cli.system.precision import SAFEST

Params = Callable[..., GenerationParams]
CPU = torch.device("cpu")
PARTS = ("load text encoder", "load transformer", "load decoder")


@pytest.fixture
def made(opened: Callable[..., SanaPipeline]) -> Callable[..., Components]:
    """Components on the CPU, planned for a small picture; keywords as for `opened`."""

    def make(params: GenerationParams, **options: Any) -> Components:
        components = opened(**options).components
        components.plan_for(params)
        return components

    return make


def loaded(told: Any) -> list[str]:
    found = [stage for stage in told.stages if stage.startswith("load")]
    told.stages.clear()
    return found


# -- what is in memory -----------------------------------------------------------------------------


def test_a_part_is_loaded_once(made: Callable[..., Components], params: Params, told: Any) -> None:
    components = made(params())
    for _ in range(2):
        encoder, transformer = components.text_encoder(), components.transformer()
        vae = components.vae()
    assert (components.text_encoder(), components.transformer(), components.vae()) == (
        encoder, transformer, vae,
    )  # fmt: skip
    assert loaded(told) == list(PARTS)
    assert components.stopwatch.seconds["load"] > 0


def test_the_text_encoder_is_alone_unless_the_plan_keeps_it(
    made: Callable[..., Components], params: Params, told: Any
) -> None:
    components = made(params(), plan="stages")
    components.transformer()
    components.vae()
    components.text_encoder()
    assert not components.evict_transformer()
    components.vae()
    assert loaded(told) == [PARTS[1], PARTS[2], PARTS[0], PARTS[2]]
    components.done_with_text()
    components.text_encoder()
    assert loaded(told) == [PARTS[0]], "it was evicted when the text was encoded"


def test_what_is_evicted_is_freed(made: Callable[..., Components], params: Params) -> None:
    """Nothing holds it: the next part finds its room."""
    components = made(params())
    parts = [weakref.ref(components.text_encoder()), weakref.ref(components.transformer())]
    parts.append(weakref.ref(components.vae()))
    assert all(part() is not None for part in parts)
    components.evict()
    gc.collect()
    assert [part() for part in parts] == [None, None, None]


def test_the_plan_of_the_next_picture_evicts(
    made: Callable[..., Components], params: Params, told: Any
) -> None:
    components = made(params())
    components.text_encoder()
    components.transformer()
    assert components.planning.step_down("denoise"), "without the text encoder"
    while not components.plan.streams_blocks:
        components.planning.step_down("denoise")
    components.plan_for(params(width=96))  # fits whole again
    assert not components.plan.streams_blocks
    assert not components.evict_transformer(), "one that is streamed is no other's"


def test_how_often_layers_run(made: Callable[..., Components], params: Params) -> None:
    """Packing pays where they run often: not for one picture of few steps, nor for blocks that are read at each step."""
    calls = [_calls_of(made(params(steps=3), expects="one"), part) for part in NETWORKS]
    assert dict(zip(NETWORKS, calls, strict=True)) == {
        "transformer": 3, "vae": 1, "text_encoder": 1,
    }  # fmt: skip
    server = made(params(steps=3), expects="more")
    assert [_calls_of(server, part) for part in NETWORKS] == [None] * 3
    while not server.plan.streams_blocks:
        server.planning.step_down("denoise")
    assert _calls_of(server, "transformer") == 1
    assert _calls_of(server, "vae") is None


def test_done_with_the_transformer(made: Callable[..., Components], params: Params) -> None:
    kept = made(params(), expects="several")
    kept.transformer()
    kept.done_with_transformer()
    assert kept.evict_transformer(), "more pictures follow"
    last = made(params(), expects="one")
    last.transformer()
    last.done_with_transformer()
    assert not last.evict_transformer()


def test_room_for_the_decoder(made: Callable[..., Components], params: Params) -> None:
    """Now and after later pictures; the answer says whether it helped."""
    components = made(params())
    components.transformer()
    assert components.make_room_for_decoder()
    assert not components.make_room_for_decoder()
    assert not components.planning.keeps_parts


def test_the_encoder_goes_after_its_block(made: Callable[..., Components], params: Params) -> None:
    components = made(params())
    with components.vae_encoder() as vae:
        assert next(vae.encoder.parameters()).device == CPU
        assert next(vae.decoder.parameters()).device.type == "meta", "the other half is not read"
        part = weakref.ref(vae)
        del vae
    gc.collect()
    assert part() is None
    parts: list[weakref.ref[Any]] = []
    with pytest.raises(ZeroDivisionError), components.vae_encoder() as vae:
        fail(vae, parts)
    del vae
    gc.collect()
    assert [part() for part in parts] == [None]


def fail(part: Any, parts: list[weakref.ref[Any]]) -> None:
    parts.append(weakref.ref(part))
    raise ZeroDivisionError


def test_other_loras_are_another_transformer(
    made: Callable[..., Components], params: Params, builtin: Checkpoint, lora_files: Any,
    tmp_path: Path,
) -> None:  # fmt: skip
    shapes = {name: shape for name, (_, shape) in weight_headers(builtin, "transformer").items()}
    file = lora_files.write_lora(tmp_path / "a.safetensors", lora_files.random_lora(shapes))
    loras = open_loras(((file, 1.0),))
    components = made(params())
    plain = components.transformer()
    changed = components.transformer(loras)
    assert changed is components.transformer(loras)
    assert not torch.equal(plain.proj_out.weight, changed.proj_out.weight)
    assert torch.equal(plain.proj_out.weight, components.transformer().proj_out.weight)


# -- loading that fails ----------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["text_encoder", "transformer", "vae"])
def test_an_interruption_leaves_no_half(
    opened: Callable[..., SanaPipeline], told: Any, part: str
) -> None:
    """The part is loaded whole when it is needed again."""
    components = opened().components
    title = dict(zip(("text_encoder", "transformer", "vae"), PARTS, strict=True))[part]
    told.failures[title] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        getattr(components, part)()
    again = getattr(components, part)()
    module = again.model if part == "text_encoder" else again
    assert loaded(told) == [title, title]
    assert all(p.device == CPU for n, p in module.named_parameters() if not n.startswith("encoder"))


def test_a_file_that_was_cut_meanwhile(builtin: Checkpoint, tmp_path: Path, told: Any) -> None:
    folder = Path(shutil.copytree(builtin.folder, tmp_path / "model"))
    runtime = RuntimeOptions(precision="fp32", prompt_cache=False)
    components = Components(open_checkpoint(str(folder)), runtime, device=CPU, reporter=told)
    [file] = (folder / "transformer").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    with pytest.raises(SanaError):
        components.transformer()
    assert not components.evict_transformer(), "nothing of it stays"
    file.write_bytes(whole)
    components.transformer()
    assert components.evict_transformer()


# -- plans -----------------------------------------------------------------------------------------


def test_a_cap_that_nothing_fits(
    opened: Callable[..., SanaPipeline], params: Params, told: Any
) -> None:
    components = opened(max_memory=2**20).components
    with pytest.raises(SanaError, match="no plan fits into 1 MiB"):
        components.plan_for(params())
    assert told.stages == [], "before anything is loaded"


def test_an_unusual_plan_is_told_once(
    opened: Callable[..., SanaPipeline], params: Params, told: Any
) -> None:
    components = opened(max_memory=2**30).components
    components.plan_for(params())
    assert components.has_measured
    before = list(told.notices)
    assert before
    components.plan_for(params("a dog"))
    assert told.notices == before


def test_planning_for_decoding_alone(made: Callable[..., Components], params: Params) -> None:
    components = made(params())
    plan_decode(components, height=64, width=64, size=(64, 64))
    assert not components.planning.keeps_parts
    assert str(components.plan.decode) == "whole"


# -- what goes with them ---------------------------------------------------------------------------


def test_the_cache_of_prompts(made: Callable[..., Components], params: Params) -> None:
    components = made(params())
    cache = components.prompt_cache()
    assert cache == components.prompt_cache()
    components.dtypes = replace(SAFEST, text_encoder="bf16")
    assert components.prompt_cache() != cache, "another precision, other embeddings"
    assert made(params(), prompt_cache=False).prompt_cache() is None


def test_notices_are_given_once(made: Callable[..., Components], params: Params, told: Any) -> None:
    components = made(params())
    for message in ("one", "two", "one"):
        components.tell_once(message)
    assert told.notices[-2:] == ["one", "two"]


def test_a_backend_without_a_kernel_is_reported(told: Any) -> None:
    """Our own runs there, and is named for the parts that it runs."""
    torch.manual_seed(0)
    layer = quantized_layer(nn.Conv2d(64, 64, 3, padding=1), QuantConfig(weight_bits=8, act_bits=8))
    chosen = accelerate_with_notice(nn.Sequential(layer), CPU, "quanto", told)
    assert len(chosen) == 1
    [kind] = chosen
    assert told.notices[-1] == f"quanto has no kernel for {kind}; our own runs there"
    assert accelerate_with_notice(nn.Sequential(nn.ReLU()), CPU, "quanto", told) == {}
