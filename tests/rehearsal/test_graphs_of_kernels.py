"""What graphs record: launches that depend on the one before, and a text encoder's prompts."""

from typing import Any

import pytest
import torch

from quant.kernels.dependent import launch_options
from sana_cli.accelerate.cuda.engine import Engine
from sana_cli.accelerate.cuda.text_graph import ReplayedTrunk, replay_texts
from sana_cli.accelerate.cuda.trial import relative_error
from sana_cli.config.networks import Gemma2Config
from sana_cli.models.gemma2 import Gemma2
from tests.rehearsal.device import Device
from tests.rehearsal.scenarios import on_device
from tests.unit.accelerate.cuda.models import inputs, transformer
from tests.unit.accelerate.cuda.test_text_encoder import gemma

HOPPER = {"capability": (9, 0)}
INSTRUCTION = 6


def step(notices: list[str]) -> float:
    """The error of a step on the device, replayed once."""
    model, untouched = transformer("w8a8").cuda(), transformer("w8a8")
    model.engine = Engine(model, notice=notices.append)
    latents, contexts = inputs(untouched)
    texts = on_device(contexts)
    model.velocity(latents.cuda(), 700.0, texts)
    out = model.velocity(latents.cuda(), 300.0, texts)
    return relative_error(out.cpu(), untouched.velocity(latents, 300.0, contexts))


@pytest.mark.parametrize("gpu", [HOPPER, {"capability": (8, 9)}], indirect=True, ids=["9.0", "8.9"])
def test_recorded_launches_depend_where_the_device_has_them(gpu: Device) -> None:
    recorded, others = [], []

    def look(name: str) -> None:
        (recorded if gpu.capturing is not None else others).append(launch_options()["DEPENDENT"])

    gpu.fails = look
    notices: list[str] = []
    assert step(notices) < 1e-4
    assert notices == []
    assert set(recorded) == {gpu.capability >= (9, 0)}
    assert False in others  # what a replay is compared with
    assert gpu.counts["captures"] == 1


@pytest.mark.parametrize("gpu", [HOPPER], indirect=True, ids=["9.0"])
def test_a_driver_that_does_not_record_them_costs_them_alone(gpu: Device) -> None:
    def refuse(name: str) -> None:
        if gpu.capturing is not None and launch_options()["DEPENDENT"]:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    gpu.fails = refuse
    notices: list[str] = []
    assert step(notices) < 1e-4
    assert notices == []
    assert gpu.counts["captures"] == 2
    assert not gpu.streams.races


def encode(model: Gemma2, lengths: tuple[int, ...], past: Any) -> list[torch.Tensor]:
    """States of prompts that follow an instruction, the first of which is `lengths[0]` tokens long, and so on."""
    device = model.norm.weight.device
    ids = [(torch.arange(L) * 7 + i)[None] % 30 for i, L in enumerate(lengths)]
    with torch.inference_mode():
        return [model(tokens.to(device), past)[0].cpu() for tokens in ids]


def instruction(model: Gemma2) -> Any:
    with torch.inference_mode():
        ids = torch.arange(INSTRUCTION)[None].to(model.norm.weight.device)
        return model(ids, keep=True)[1]


@pytest.mark.parametrize("gpu", [HOPPER, {"capability": (8, 9)}], indirect=True, ids=["9.0", "8.9"])
def test_texts_are_replayed_from_the_second_of_a_length_on(gpu: Device) -> None:
    untouched, model = gemma(), gemma().cuda()
    replay_texts(model, notice=pytest.fail)
    lengths = (5, 16, 9, 30, 3, 31)
    expected = encode(untouched, lengths, instruction(untouched))
    gpu.counts.clear()
    found = encode(model, lengths, instruction(model))
    for mine, theirs in zip(found, expected, strict=True):
        assert relative_error(mine, theirs) < 1e-5
    assert gpu.counts["captures"] == 2  # up to 16 tokens, up to 32
    assert gpu.counts["replays"] == 2 + 4  # each graph is tried once
    assert gpu.streams.races == []


def test_heads_that_the_kernel_does_not_take_are_replayed_too(gpu: Device) -> None:
    untouched, model = gemma(), gemma().cuda()
    vars(model)["trunk"] = ReplayedTrunk(model, None, notice=pytest.fail)
    found = encode(model, (5, 6, 7), instruction(model))
    expected = encode(untouched, (5, 6, 7), instruction(untouched))
    assert max(map(relative_error, found, expected)) < 1e-5
    assert gpu.counts["captures"] == 1


def test_a_prompts_states_do_not_depend_on_those_before(gpu: Device) -> None:
    model = gemma().cuda()
    replay_texts(model, notice=pytest.fail)
    past = instruction(model)
    first, _, again = encode(model, (5, 12, 5), past)
    alone = gemma().cuda()
    replay_texts(alone, notice=pytest.fail)
    ids = ((torch.arange(5) * 7 + 2)[None] % 30).cuda()
    with torch.inference_mode():
        states = alone(ids, instruction(alone))[0].cpu()
    assert torch.equal(again, states)
    assert first.shape == again.shape


def test_another_instruction_has_graphs_of_its_own(gpu: Device) -> None:
    untouched, model = gemma(), gemma().cuda()
    replay_texts(model, notice=pytest.fail)
    pasts = [instruction(model), [(k * 2, v * 2) for k, v in instruction(model)]]
    theirs = [[(k.cpu(), v.cpu()) for k, v in past] for past in pasts]
    for past, same in zip(pasts * 2, theirs * 2, strict=True):
        found, expected = encode(model, (5, 6), past), encode(untouched, (5, 6), same)
        assert max(map(relative_error, found, expected)) < 1e-5


def test_a_text_that_cannot_be_recorded_is_launched(gpu: Device) -> None:
    untouched, model, notices = gemma(), gemma().cuda(), []

    def synchronises(name: str) -> None:
        if gpu.capturing is not None and name == "softcap_attention":
            torch.cuda.synchronize()

    replay_texts(model, notice=notices.append)
    gpu.fails = synchronises
    found = encode(model, (5, 6, 7, 8), instruction(model))
    expected = encode(untouched, (5, 6, 7, 8), instruction(untouched))
    assert max(map(relative_error, found, expected)) < 1e-5
    assert len(notices) == 1
    assert notices[0].startswith("no CUDA graph of the text encoder (CUDA error")
    assert gpu.counts["captures"] == 1


def test_layers_that_are_read_when_they_run_are_not_recorded() -> None:
    class Streamed(torch.nn.Module):
        pass

    model = gemma()
    model.layers = Streamed()
    replay_texts(model, notice=pytest.fail)
    assert not isinstance(model.trunk, ReplayedTrunk)
    assert isinstance(model.config, Gemma2Config)
