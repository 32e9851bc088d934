"""Load the HED network, always in fp32 on the CPU: the same lines on every machine."""

import torch

from sana_cli.checkpoints.hed_file import HedFile
from sana_cli.checkpoints.pth import read_tensors
from sana_cli.loading.assign import assign_weights
from sana_cli.models.hed import HED


def load_hed(file: HedFile) -> HED:
    """HED with its weights, in eval mode. SanaError for values that are not finite."""
    with torch.device("meta"):
        model = HED()
    tensors = read_tensors(file.path)
    names = {name: name for name in tensors}
    assign_weights(
        model, names, tensors.__getitem__, component=file.path.name, dtype=torch.float32,
        device=torch.device("cpu"),
    )  # fmt: skip
    return model.eval()
