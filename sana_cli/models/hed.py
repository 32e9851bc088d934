"""HED: edges as a person would draw them, by a VGG with a side output at each scale (arXiv 1504.06375).

In the form of ControlNet's annotator (lllyasviel/Annotators, ControlNetHED.pth), whose names these parameters have: five
blocks of 3x3 convolutions with ReLU, halved in between, and the mean of their projections.
"""

# B batch, H W pixels, h w pixels at a block's scale

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sana_cli.config.networks import HED_BLOCKS


class HEDBlock(nn.Module):
    """Convolutions at one scale, and their side output."""

    def __init__(self, in_channels: int, channels: int, count: int) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * count]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.projection = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) -> the next block's input before it is halved, and the side output (B, 1, h, w)."""
        for conv in self.convs:
            x = F.relu_(conv(x))
        return x, self.projection(x)


class HED(nn.Module):
    """Strengths of edges of an RGB picture."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))  # colour that is subtracted, 0..255
        before = 3
        for i, (channels, count) in enumerate(HED_BLOCKS, start=1):
            setattr(self, f"block{i}", HEDBlock(before, channels, count))
            before = channels

    def forward(self, image: Tensor) -> Tensor:
        """RGB 0..255 (B, 3, H, W), both sides at least 16 -> strengths 0..1 (B, 1, H, W)."""
        x, total = image - self.norm, None
        for i in range(1, len(HED_BLOCKS) + 1):
            if i > 1:
                x = F.max_pool2d(x, 2)
            x, side = getattr(self, f"block{i}")(x)
            side = F.interpolate(side, image.shape[-2:], mode="bilinear", align_corners=False)
            total = side if total is None else total.add_(side)
        assert total is not None
        return torch.sigmoid(total / len(HED_BLOCKS))
