"""Random but lively decoders in the files that they are published in: a DC-AE-Lite folder, TAESANA's `.pth`."""

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

LITE_BLOCKS = ("ResBlock",) * 6
# Narrower than published, else as `mit-han-lab/dc-ae-lite-f32c32-sana-1.1-diffusers` is.
LITE: dict[str, Any] = {
    "decoder_block_types": LITE_BLOCKS,
    "decoder_block_out_channels": (16, 32, 32, 32, 64, 64),
    "decoder_layers_per_block": (0, 3, 5, 4, 4, 4),
    "decoder_qkv_multiscales": ((),) * 6,
    "decoder_act_fns": "silu",
    "decoder_conv_act_fn": "silu",
    "upsample_block_type": "pixel_shuffle",
}
TAESANA_WIDTHS = (256, 128, 64, 64, 64, 64)
TAESANA_BLOCKS = (3, 3, 3, 3, 3, 1)


def write_lite(folder: Path, reference: ModuleType, **changed: Any) -> Path:
    """A folder with a whole diffusers autoencoder whose decoder has DC-AE-Lite's form; its pictures are in range."""
    vae = reference.lively_vae(reference.VAE_TINY | LITE | changed, 11)
    with torch.no_grad():
        z = torch.randn(1, 32, 4, 4, generator=torch.Generator().manual_seed(1))
        image = vae.decode(z / reference.SCALING_FACTOR).sample
        conv = vae.decoder.conv_out.conv
        # Four outputs a channel: the shuffle takes consecutive ones.
        std, mean = (x.repeat_interleave(4) for x in (image.std((0, 2, 3)), image.mean((0, 2, 3))))
        conv.bias.copy_((conv.bias - mean) * 0.4 / std)
        conv.weight.mul_((0.4 / std)[:, None, None, None])
    vae.save_pretrained(folder)
    return folder


def taesana_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under the names of `taesana_decoder.pth`, as its sequence of layers numbers them."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, *, bias: bool = True, gain: float = 1.0) -> None:
        spread = gain * math.sqrt(2 / (9 * inputs))
        shape = (outputs, inputs, 3, 3)
        tensors[f"{name}.weight"] = spread * torch.randn(shape, generator=generator)
        if bias:
            tensors[f"{name}.bias"] = 0.1 * torch.randn(outputs, generator=generator)

    conv("1", TAESANA_WIDTHS[0], 32)
    place = 3
    for i, (width, count) in enumerate(zip(TAESANA_WIDTHS, TAESANA_BLOCKS, strict=True)):
        if i:
            conv(f"{place + 1}", width, TAESANA_WIDTHS[i - 1], bias=False)
            place += 2
        for _ in range(count):
            for k in (0, 2, 4):
                conv(f"{place}.conv.{k}", width, width, gain=0.5 if k == 4 else 1.0)
            place += 1
    conv(f"{place}", 3, TAESANA_WIDTHS[-1], gain=0.2)
    tensors[f"{place}.bias"] += 0.5
    return tensors


def taesana(tensors: dict[str, Tensor], z: Tensor) -> Tensor:
    """The network by its published description, independent of ours: latents (B, 32, h, w) -> (B, 3, H, W) in 0..1."""

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), padding=1)

    x = F.relu(conv(3 * torch.tanh(z / 3), "1"))
    place = 3
    for i, count in enumerate(TAESANA_BLOCKS):
        if i:
            x = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"), f"{place + 1}")
            place += 2
        for _ in range(count):
            inside = F.relu(conv(x, f"{place}.conv.0"))
            inside = F.relu(conv(inside, f"{place}.conv.2"))
            x = F.relu(conv(inside, f"{place}.conv.4") + x)
            place += 1
    return conv(x, f"{place}")


def write_taesana(path: Path, seed: int = 0) -> Path:
    """A `.pth` file as PyTorch writes it."""
    torch.save(taesana_tensors(seed), path)
    return path


def write_tiny(folder: Path, *, scaling_factor: float = 0.41407, seed: int = 0) -> Path:
    """A folder with a small decoder of convolutions alone, as `python -m training distil-decoder` writes it."""
    from sana_cli.checkpoints.shapes import tiny_decoder_names, tiny_decoder_shapes
    from sana_cli.config.networks import TinyDecoderConfig

    sizes: dict[str, Any] = {"widths": (16, 16, 8, 8), "blocks": (1, 1, 1, 1), "patch_size": 4}
    config = TinyDecoderConfig(**sizes)
    generator = torch.Generator().manual_seed(seed)
    names = tiny_decoder_names(config)
    tensors = {
        names[name]: torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]) or 1)
        for name, shape in tiny_decoder_shapes(config).items()
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    told = {"_class_name": "TinyDecoder", **sizes, "scaling_factor": scaling_factor}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def without_encoder(folder: Path) -> None:
    """Leave the decoder's tensors alone in a folder of an autoencoder."""
    path = folder / "diffusion_pytorch_model.safetensors"
    tensors = {
        name: t.clone() for name, t in load_file(path).items() if name.startswith("decoder.")
    }
    save_file(tensors, path)
