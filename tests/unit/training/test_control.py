"""A ControlNet begins without effect, learns in its own blocks alone, and is stored as it is measured."""

import random
from pathlib import Path

import pytest
import torch

from sana_cli.checkpoints.builtin_packed import CONTROL
from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from sana_cli.checkpoints.packed_weights import unpack
from sana_cli.models.sana_transformer import SanaTransformer2D
from training.scenes import Scene, Thing
from training.sprites import Sprites


@pytest.fixture(scope="module")
def base() -> SanaTransformer2D:
    from sana_cli.checkpoints.opening import open_checkpoint
    from sana_cli.loading.load import load_transformer

    builtin = open_checkpoint("builtin")
    model = load_transformer(builtin, dtype="fp32", device=torch.device("cpu"))
    return model.requires_grad_(False)


def inputs() -> tuple[torch.Tensor, ...]:
    """x, timestep, latents of a drawing, text states and their mask."""
    generator = torch.Generator().manual_seed(0)
    x, drawing = (torch.randn(2, 32, 8, 8, generator=generator) for _ in range(2))
    embeds = torch.randn(2, 7, 160, generator=generator)
    return x, torch.tensor([900.0, 500.0]), drawing, embeds, torch.ones(2, 7, dtype=torch.bool)


def test_it_begins_without_effect(base: SanaTransformer2D) -> None:
    from training.control import Controlled, control_of

    x, timestep, drawing, embeds, mask = inputs()
    controlled = Controlled(base, control_of(base, 2))
    with torch.no_grad():
        velocity = controlled(x, timestep, drawing, embeds, mask)
        alone = base(x, timestep, [base.encode_text(embeds, mask)])
    torch.testing.assert_close(velocity, alone, rtol=0, atol=0)


def test_only_its_own_blocks_learn(base: SanaTransformer2D) -> None:
    """After two steps: the first one moves the last projections, which hide the others until then."""
    from training.control import Controlled, control_of, own_parts

    x, timestep, drawing, embeds, mask = inputs()
    net = control_of(base, 1)
    controlled, own = Controlled(base, net), own_parts(net)
    optimizer = torch.optim.SGD(own.parameters(), lr=1e-2)
    before = {name: p.clone() for name, p in controlled.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        controlled(x, timestep, drawing, embeds, mask).square().mean().backward()
        optimizer.step()
    after = dict(controlled.named_parameters())
    changed = {name for name, p in before.items() if not torch.equal(p, after[name])}
    assert {name.split(".")[1] for name in changed} == {
        "input_block", "transformer_blocks", "controlnet_blocks",
    }  # fmt: skip
    assert all(name.startswith("net.") for name in changed)


def test_stored_and_unpacked(base: SanaTransformer2D, tmp_path: Path) -> None:
    """Packed tensors and the base's embedders are a whole ControlNet, near to what was trained."""
    from safetensors.torch import load_file

    from training.control import FILE, control_of, own_parts
    from training.export_distilled import export_control

    net = control_of(base, 1)
    torch.manual_seed(0)
    for parameter in net.controlnet_blocks.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    average = {name: p.detach() for name, p in own_parts(net).named_parameters()}
    torch.save({"blocks": 1, "ema": {"updates": 1, "average": average}}, tmp_path / FILE)
    export_control(tmp_path, tmp_path / "made")
    folder = BUILTIN_FOLDER / "transformer/diffusion_pytorch_model.safetensors"
    target = tmp_path / "unpacked.safetensors"
    unpack(tmp_path / "made" / CONTROL.weights, target, base=folder, borrowed=CONTROL.borrowed)
    found, wanted = load_file(target), net.state_dict()
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        error = (found[name].float() - tensor).square().mean()
        assert error <= 3e-3 * tensor.square().mean(), f"{name}: 25 dB"


def test_drawings(sprites: Sprites) -> None:
    """What is drawn stays within the picture when it moves, and lines lie on outlines."""
    from training.drawings import OUTLINE, room, sample_drawing

    small = Scene(things=(Thing(name="circle", colour="red"),), background="white", size="small")
    assert len(room(small)) == 25, "two latents to each side"
    assert room(Scene(things=small.things, background="white", size="large")) == [(0, 0)]
    rng = random.Random(1)
    for _ in range(10):
        drawing = sample_drawing(rng, sprites)
        outline, lines = drawing.outline, drawing.lines[..., 0] > 127
        assert 0.02 < outline.mean() < 0.9
        edge = outline[:, 1:] != outline[:, :-1]
        near = lines[:, 1:] | lines[:, :-1]
        assert near[edge].mean() > 0.9, (drawing.kind, "every outline has its line")
        if drawing.kind == OUTLINE:
            assert lines.mean() < 0.2
        assert all(step % 32 == 0 for step in drawing.moved)


def test_the_measure(sprites: Sprites) -> None:
    """A picture agrees with its own outline, not with one of another place or half of it."""
    from training.drawings import Drawing
    from training.evaluate_control import KEPT, iou, shown

    things = (Thing(name="circle", colour="red"), Thing(name="square", colour="black"))
    pair = Scene(things=things, background="white", relation="left of", size="small")
    drawing = Drawing(scene=pair, moved=(0, 32), kind="outline", width=1, sprites=sprites)
    picture = drawing.picture.copy()
    assert iou(shown(picture), drawing.outline) > 0.97
    moved = Drawing(scene=pair, moved=(0, -64), kind="outline", width=1, sprites=sprites)
    assert iou(shown(moved.picture), drawing.outline) < 0.5
    picture[:, 128:] = 255
    assert 0.3 < iou(shown(picture), drawing.outline) < KEPT, "one of two things"
    picture[:] = 255
    assert iou(shown(picture), drawing.outline) == 0
