"""TAESANA's decoder (madebyollin/taesd, MIT): 3x3 convolutions and ReLU alone, a fourteenth of DC-AE's operations.

Widths, depths and the size of the last patch are settings, so that a smaller one can be distilled for a smaller
autoencoder. Tensors are (B, C, H, W), channels last. `checkpoints/shapes.py` maps names to those of the published file.
"""

# B batch, C latent channels, h w latent grid, H W pixels

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_cli.config.networks import TinyDecoderConfig
from sana_cli.models.dc_ae import UpBlock, activate

_LATENT_RANGE = 3.0  # latents are squeezed smoothly into minus to plus this


class ConvBlock(nn.Module):
    """Three 3x3 convolutions with ReLU between them around a residual, then ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.convs
        out = third(activate(F.relu, second(activate(F.relu, first(x)))))
        # In place where nobody needs the sum's inputs again: a map less at the widest point.
        return activate(F.relu, out + x if torch.is_grad_enabled() else out.add_(x))


class TinyDecoder(nn.Module):
    """Latents of unit variance (B, C, h, w) -> image (B, 3, 32h, 32w), nominally -1..1, not clamped."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        for i, (width, count) in enumerate(zip(widths, config.blocks, strict=True)):
            up = [UpBlock(widths[i - 1], width, interpolate=True, shortcut=False, bias=False)]
            self.stages.append(
                nn.Sequential(*(up if i else []), *(ConvBlock(width) for _ in range(count)))
            )
        self.conv_out = nn.Conv2d(widths[-1], 3 * config.patch_size**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.embed(z)
        for block in self.blocks():
            x = block(x)
        return self.to_pixels(x)

    def embed(self, z: Tensor) -> Tensor:
        """The first convolution, of latents whose outliers are squeezed."""
        squeezed = torch.tanh(z / _LATENT_RANGE) * _LATENT_RANGE
        return activate(F.relu, self.conv_in(squeezed))

    def blocks(self) -> Iterator[nn.Module]:
        """Yield every block in the order in which they run."""
        for stage in self.stages:
            assert isinstance(stage, nn.Sequential)
            yield from stage

    def to_pixels(self, x: Tensor) -> Tensor:
        """The last convolution, whose outputs are 0..1 and maybe patches of pixels."""
        out = self.conv_out(x)
        if self.config.patch_size > 1:
            out = F.pixel_shuffle(out, self.config.patch_size)
        return 2 * out - 1


class TinyAutoencoder(nn.Module):
    """A tiny decoder in the place of DC-AE; it has no encoder."""

    def __init__(self, config: TinyDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = TinyDecoder(config)

    def unscale(self, latents: Tensor) -> Tensor:
        """The decoder's input for latents of unit variance, which the transformer makes."""
        return latents * self.config.input_scale

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as from `unscale` -> (B, 3, 32h, 32w)."""
        return self.decoder(latents.contiguous(memory_format=torch.channels_last))
