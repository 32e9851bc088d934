"""A file of HED's layout with random weights that find something."""

from pathlib import Path

import torch

from sana_cli.models.hed import HED


def write_hed(path: Path, *, seed: int = 0) -> Path:
    """Write a `.pth` file in fp16, as the published one is."""
    torch.manual_seed(seed)
    net = HED()
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            if "projection" in name:  # both ends of the sigmoid are reached
                parameter.data.mul_(0.05)
        elif name == "norm":
            parameter.data.copy_(torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: tensor.half() for name, tensor in net.state_dict().items()}, path)
    return path
