"""Values of a decoder and pixels, and the way back."""

import pytest
import torch
from PIL import Image

from sana_cli.config.published import aspect_ratio_bins
from sana_cli.images.tensors import resize_and_crop, to_image, to_tensor


def test_pixels_round_and_clamp() -> None:
    decoded = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert [to_image(decoded).getpixel((x, 0))[0] for x in range(5)] == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(("height", "width"), [(40, 90), (90, 40), (64, 96), (100, 100)])
def test_resize_and_crop_like_diffusers(height: int, width: int) -> None:
    from diffusers.image_processor import PixArtImageProcessor

    decoded = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ours = resize_and_crop(decoded, height=height, width=width)
    theirs = PixArtImageProcessor.resize_and_crop_tensor(decoded, width, height)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_picture_comes_back() -> None:
    picture = Image.linear_gradient("L").resize((6, 4)).convert("RGB")
    picture.putpixel((5, 0), (255, 0, 10))
    tensor = to_tensor(picture)
    assert (tensor.shape, tensor.dtype) == ((1, 3, 4, 6), torch.float32)
    assert (float(tensor.min()), float(tensor.max())) == (-1, 1)
    assert tensor[0, :, 0, 5].tolist() == pytest.approx([1, -1, 10 / 255 * 2 - 1])
    assert to_image(tensor).tobytes() == picture.tobytes()


def test_a_picture_is_a_map_with_channels_last() -> None:
    """Strides of a batch of one decide, too, whether a convolution copies the picture and what it makes of it."""
    tensor = to_tensor(Image.new("RGB", (6, 4)))
    assert tensor.stride() == (3 * 4 * 6, 1, 3 * 6, 3)
    mapped = torch.nn.Conv2d(3, 8, 3, padding=1)(tensor)
    assert mapped.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("size", "native"), [("640x480", 512), ("90x49", 512), ("1920x1080", 1024)]
)
def test_resizing_never_cuts_to_a_sliver(size: str, native: int) -> None:
    """int(480 * (640 / 672)) style products fall a hair short."""
    width, height = map(int, size.split("x"))
    for drawn in aspect_ratio_bins(native).values():
        decoded = torch.zeros(1, 1, *(side // 32 for side in drawn))
        out = resize_and_crop(decoded, height=height, width=width)
        assert out.shape[-2:] == (height, width)
