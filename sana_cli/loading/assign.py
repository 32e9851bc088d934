"""Fill modules strictly: every expected tensor, nothing else, right shapes, finite values.

Tensors are read one by one into memory of their own, so that loading holds one tensor twice at most, and what is
resident is what is used; those of quantized layers by two threads. (Mapped files would be simpler, but recent kernels
map up to two megabytes around every byte that is touched, once per tensor: a few hundred rows of a table make half of
it resident.) Problems name the file and the tensor.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from quant.dtypes import FLOATS, PRECISIONS, torch_dtype
from quant.in_threads import in_threads
from quant.schemes import STORED_TENSORS
from sana_cli.errors import checkpoint_error

DTYPES = {name: torch_dtype(name) for name in PRECISIONS}

_BLOCK = 2**24  # values
_READERS = 2  # threads
_FLOATS = tuple(torch_dtype(name) for name in FLOATS)


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

    def ready(name: str) -> Tensor:
        tensor = read(names[name])
        require_fit(tensor, expected[name], name, component)
        wanted = tensor.dtype if name in as_stored else _compute_dtype(name, tensor, dtype)
        there = tensor.to(device=device, dtype=wanted)
        # Where it lies: adding up gigabytes takes a CPU seconds. In fp16 a finite value may have become infinite.
        narrowed = wanted == torch.float16 != tensor.dtype
        require_finite(tensor if narrowed else there, name, component)
        return there

    # The system clears new memory page by page, on one core as long as the copying takes. Integers stay as they are
    # read; floats that become another type would be there twice in each thread.
    stays = device.type == "cpu" and any(not t.is_floating_point() for t in expected.values())
    threads = min(torch.get_num_threads(), _READERS) if stays else 1
    state = dict(in_threads(ready, expected, threads))
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
    both_floats = {tensor.dtype, place.dtype} <= set(_FLOATS)
    if not both_floats and tensor.dtype != place.dtype:
        raise checkpoint_error(
            f"{component}: {name} is stored as {str(tensor.dtype).removeprefix('torch.')}",
            hint="use a release in fp32, bf16 or fp16, or a folder made by `sana quantize`",
        )


def _compute_dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Integers and the tensors of quantized layers keep their type; all else computes in `dtype`."""
    stored = not tensor.is_floating_point() or name.rpartition(".")[2] in STORED_TENSORS
    return tensor.dtype if stored else dtype


def require_finite(tensor: Tensor, name: str, component: str) -> None:
    """Raise SanaError naming a tensor with NaN or infinite values."""
    if not tensor.is_floating_point():
        return
    # In blocks: a sum of 16-bit values makes an fp32 copy of them.
    for part in tensor.reshape(-1).split(_BLOCK):
        # One fast sum finds almost every bad tensor; a large finite one may overflow it, so look twice.
        if part.dtype not in _FLOATS:  # 8 bits, which torch does not add up
            part = part.float()
        if not part.sum(dtype=torch.float32).isfinite() and not part.isfinite().all():
            raise checkpoint_error(f"{component}: {name} holds NaN or infinite values")
