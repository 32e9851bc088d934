"""The work of a picture, as torch counts the networks themselves."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from sana_cli.bench import flops, picture_flops
from sana_cli.bench.history import seconds_elsewhere
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.choices import ControlOrder
from sana_cli.config.generation import BUILTIN, GenerationOptions
from sana_cli.config.networks import ControlNetConfig, DCAEConfig, TransformerConfig
from sana_cli.config.variants import VARIANTS
from sana_cli.models.controlnet import ActiveControl, SanaControlNet
from sana_cli.models.dc_ae import AutoencoderDC
from sana_cli.models.hed import HED
from sana_cli.models.sana_transformer import SanaTransformer2D
from sana_cli.request.params import GenerationParams, resolve

TEXTS = [2, 40]  # tokens
SIZE = {"width": 512, "height": 768}


def save_picture(path: Path, width: int, height: int) -> Path:
    Image.effect_noise((width, height), 60).convert("RGB").save(path)
    return path


def counted(run: Any) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def drawing(checkpoint: Checkpoint, **options: Any) -> GenerationParams:
    return resolve(GenerationOptions(prompt="a red apple", seed=1, **options), checkpoint)


@pytest.mark.parametrize("downsample", ["Conv", "pixel_unshuffle"])
@pytest.mark.parametrize("first", [2, 0], ids=["full size", "halved at once"])
def test_the_encoder(downsample: str, first: int) -> None:
    config = DCAEConfig(
        downsample_block_type=downsample, encoder_layers_per_block=(first, 2, 2, 3, 3, 3)
    )
    with torch.device("meta"):
        vae, picture = AutoencoderDC(config), torch.empty(1, 3, 768, 512)
    found = picture_flops.encode(config, **SIZE).flops
    assert found == counted(lambda: vae.encoder(picture))


def test_edges() -> None:
    with torch.device("meta"):
        net, picture = HED(), torch.empty(1, 3, 768, 512)
    assert picture_flops.find_edges(**SIZE).flops == counted(lambda: net(picture))


@pytest.mark.parametrize("pag", [None, "2:1"])
@pytest.mark.parametrize("controlled", [False, True])
def test_what_a_step_takes_more(pag: str | None, controlled: bool, tmp_path: Path) -> None:
    structure = asdict(VARIANTS["sana-0.6b"].structure)
    base = replace(TransformerConfig(**structure), num_layers=4)  # as wide as published
    own = ControlNetConfig(blocks=replace(base, num_layers=2), order=ControlOrder.TRAINED)
    checkpoint = replace(open_checkpoint(BUILTIN), transformer=base, controlnet=own)
    lines = {"control": save_picture(tmp_path / "lines.png", 64, 64)} if controlled else {}
    wanted = drawing(checkpoint, **SIZE, **lines, pag=pag)
    with torch.device("meta"):
        model, net = SanaTransformer2D(base), SanaControlNet(own)
        texts = [torch.empty(1, L, base.caption_channels) for L in TEXTS]
        x, t = torch.empty(2, base.in_channels, 24, 16), torch.empty(2)
        tokens = torch.empty(1, 24 * 16, base.inner_dim)
    contexts = [replace(model.encode_text(e), control=net.encode_text(e)) for e in texts]
    control = ActiveControl(net=net, tokens=tokens, scale=1.0, order=own.order)
    expected = counted(
        lambda: model(
            x, t, contexts, perturbed_layer=wanted.pag.layer if wanted.pag else None,
            control=control if controlled else None,
        )
    )  # fmt: skip
    found = flops.denoise_step(base, **SIZE, text_tokens=TEXTS)
    found += picture_flops.added_to_a_step(checkpoint, wanted, TEXTS)
    # The embedding of time and the last product, next to few blocks.
    assert found.flops == pytest.approx(expected, rel=2e-3)


def test_a_picture_to_begin_with_is_in_the_time(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(BUILTIN)
    image = save_picture(tmp_path / "picture.png", 256, 256)

    def encode(**options: Any) -> float:
        return seconds_elsewhere(checkpoint, drawing(checkpoint, **options)).get("encode", 0.0)

    one = encode(image=image)
    assert one > 0
    assert encode() == 0
    assert encode(image=image, strength=1.0) == 0, "not read"
    assert encode(upscale=2.0) == pytest.approx(4 * one, rel=0.05), "the enlarged first drawing"
    assert encode(image=image, upscale=2.0) == pytest.approx(4 * one, rel=0.05), "drawn once"
