"""Convert a decoder's values to a picture, and a picture to an encoder's input."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F


def to_image(decoded: Tensor) -> Image.Image:
    """Convert decoder output (1, 3, H, W), nominally -1..1, to an RGB picture."""
    pixels = (decoded[0].float() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0)  # (H, W, 3)
    return Image.fromarray((pixels * 255).round().to(torch.uint8).cpu().numpy())


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB picture to an encoder's input, (1, 3, H, W) fp32 in -1..1."""
    pixels = torch.from_numpy(np.array(image))  # (H, W, 3), a copy that torch may write to
    # With its batch before the channels move: else the strides of a batch of one look like those of no channels-last map,
    # and convolutions would copy the picture and all of their first maps.
    return (pixels[None].float() / 255 * 2 - 1).permute(0, 3, 1, 2)


def resize_and_crop(decoded: Tensor, *, height: int, width: int) -> Tensor:
    """Fill (height, width) keeping the aspect ratio, cut the rest evenly; bilinear as published."""
    H, W = decoded.shape[-2:]
    if (H, W) == (height, width):
        return decoded
    ratio = max(height / H, width / W)
    # A product that falls a hair below the size asked for is not cut to one pixel less.
    size = (max(height, int(H * ratio)), max(width, int(W * ratio)))
    resized = F.interpolate(decoded.float(), size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return resized[..., top : top + height, left : left + width]
