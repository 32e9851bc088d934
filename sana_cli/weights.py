"""Fill modules strictly: every expected tensor, nothing else, right shapes, finite values.

Tensors are views of the mapped file until they are converted or moved, so reading a checkpoint
never holds a second copy. Problems name the file and the tensor.
"""

from collections.abc import Callable, Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sana_cli.errors import checkpoint_error
from sana_cli.weight_headers import WeightFiles

_BLOCK = 2**24  # values
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def read_tensor(files: WeightFiles, name: str) -> Tensor:
    """One tensor as a view of its mapped file; the mapping goes with the last reference."""
    path = files.file_of(name)
    try:
        with safe_open(path, framework="pt") as handle:
            return handle.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise checkpoint_error(f"cannot read {name} from {path}: {error}") from error


def assign_weights(
    module: nn.Module,
    names: Mapping[str, str],
    read: Callable[[str], Tensor],
    *,
    component: str,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Fill a module built on the meta device.

    `names` maps every tensor of the checkpoint, under the module's own names, to the name that
    `read` understands. Raises SanaError naming missing, extra, misshapen and non-finite tensors.
    """
    as_stored = {
        f"{path}.{name}"
        for path, part in module.named_modules()
        if getattr(part, "stays_as_stored", False)
        for name, _ in part.named_parameters(recurse=False)
    }
    expected = module.state_dict()
    require_same_names(set(expected), set(names), component)
    state = {}
    for name, place in expected.items():
        tensor = read(names[name])
        require_fit(tensor, place, name, component)
        require_finite(tensor, name, component)
        wanted = tensor.dtype if name in as_stored else _compute_dtype(name, tensor, dtype)
        state[name] = tensor.to(device=device, dtype=wanted)
    module.load_state_dict(state, strict=True, assign=True)
    module.requires_grad_(False)


def require_same_names(expected: set[str], found: set[str], component: str) -> None:
    """Raise SanaError naming tensors that a checkpoint lacks or should not have."""
    for problem, names in (("missing", expected - found), ("unexpected", found - expected)):
        if names:
            listed = ", ".join(sorted(names)[:3])
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise checkpoint_error(
                f"{component}: {problem} tensor {listed}{more}",
                hint="config.json and the weights do not belong together, or a file is incomplete",
            )


def require_fit(tensor: Tensor, place: Tensor, name: str, component: str) -> None:
    """Raise SanaError naming a tensor whose shape is not that of its `place`, or whose type cannot fill it."""
    if tensor.shape != place.shape:
        raise checkpoint_error(
            f"{component}: {name} has shape {list(tensor.shape)}, expected {list(place.shape)}",
            hint="config.json and the weights do not belong together",
        )
    fits = tensor.dtype in _FLOATS if place.is_floating_point() else tensor.dtype == place.dtype
    if not fits:
        raise checkpoint_error(
            f"{component}: {name} is stored as {str(tensor.dtype).removeprefix('torch.')}",
            hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
        )


def _compute_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Integers and the factors of quantized layers keep their type; all else computes in `dtype`."""
    factors = ("scale", "smooth", "act_scale")
    stored = not tensor.is_floating_point() or name.rpartition(".")[2] in factors
    return tensor.dtype if stored else dtype


def require_finite(tensor: Tensor, name: str, component: str) -> None:
    """Raise SanaError naming a tensor with NaN or infinite values."""
    if not tensor.is_floating_point():
        return
    for part in tensor.reshape(-1).split(
        _BLOCK
    ):  # a sum of 16-bit values makes an fp32 copy of them
        # One fast sum finds almost every bad tensor; a large finite one may overflow it, so look twice.
        if not part.sum(dtype=torch.float32).isfinite() and not part.isfinite().all():
            raise checkpoint_error(f"{component}: {name} holds NaN or infinite values")
