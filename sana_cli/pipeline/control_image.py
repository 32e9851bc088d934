"""The control picture as it is encoded: fitted to what is drawn, with its lines found by OpenCV or by HED."""

# H W pixels

import numpy as np
import torch
from PIL import Image

from sana_cli.images.control_lines import hed_size, scribbled
from sana_cli.loading.hed import load_hed
from sana_cli.models.hed import HED
from sana_cli.request.control import ControlPicture


def control_image(control: ControlPicture, width: int, height: int) -> Image.Image:
    """RGB of width x height. HED is loaded, runs on the CPU and goes again. SanaError for files that cannot be read."""
    picture = control.fitted(width, height)
    if control.hed is None:
        return picture
    small = picture.resize(hed_size(*picture.size), Image.Resampling.LANCZOS)
    edges = find_edges(load_hed(control.hed), small)
    if control.thins:
        edges = scribbled(edges)
    return Image.fromarray(edges).resize(picture.size, Image.Resampling.BILINEAR).convert("RGB")


@torch.inference_mode()
def find_edges(net: HED, picture: Image.Image) -> np.ndarray:
    """Strengths of edges, uint8 (H, W), of an RGB picture of the same size."""
    rgb = torch.from_numpy(np.array(picture))[None].float().permute(0, 3, 1, 2)  # (1, 3, H, W)
    strengths = net(rgb)[0, 0]
    return (strengths * 255).to(torch.uint8).numpy()
