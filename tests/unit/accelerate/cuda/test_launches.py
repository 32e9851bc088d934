"""How many kernels a block of the engine launches: between the products stand as few steps as rows allow.

Counted are Triton kernels, and torch's operations but for views and allocations. Attention of torch's own is one
operation; on a device it is one kernel where no mask is passed and types have 16 bits.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sana_cli.accelerate.cuda.kernels import TRITON
from sana_cli.accelerate.cuda.transformer import EngineTransformer, StepInputs
from tests.unit.accelerate.cuda.models import inputs, transformer

QK_NORM = {"qk_norm": "rms_norm_across_heads"}
_FREE = {"empty", "detach", "_unsafe_view"}  # views by another name


class Launches(TorchDispatchMode):
    """Operations by name, and Triton kernels, which are counted and not run: what they would compute decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not func.is_view and name not in _FREE:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    def in_place_of_a_run(self, executor: Any, *args: Any, **kwargs: Any) -> None:
        self.counts[executor.fn.__name__] += 1


def count(
    layers: int, scheme: str, config: dict[str, Any], lengths: tuple[int, ...]
) -> Counter[str]:
    """In the interpreter's process: launches of one forward."""
    from triton.runtime.interpreter import GridExecutor

    dtype = torch.bfloat16
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        before, launches = Launches(), Launches()
        kernels = [before]
        patch.setattr(
            GridExecutor, "__call__", lambda *a, **k: kernels[-1].in_place_of_a_run(*a, **k)
        )
        model = transformer(scheme, dtype=dtype, layers=layers, **config)
        latents, contexts = inputs(model, lengths, h=1, w=2)
        engine = EngineTransformer(model, TRITON)
        condition, text = engine.condition(700.0, None), StepInputs(engine.text(contexts))
        kernels.append(launches)
        with launches:
            engine.forward(latents, condition, text, None)
    return launches.counts


@pytest.mark.parametrize(
    ("scheme", "config", "lengths", "expected"),
    [
        ("none", {}, (1, 3), 12),
        ("none", QK_NORM, (1, 3), 14),  # queries and keys; the text's queries
        ("none", {}, (2, 3), 15),  # a negative prompt: the text's three launches once more
        ("w8a8", {}, (1, 3), 12),  # quantizing what self-attention and the feed-forward made
        ("w8a8", {}, (2, 3), 14),
        ("f8a8", {}, (1, 3), 15),  # quantized where it is added to, added to where it is normed
        (
            "w8a8",
            QK_NORM,
            (3,),
            15,
        ),  # queries are a launch of their own: their norm needs all heads
    ],
    ids=str,
)
def test_launches_of_a_block(
    interpreted: Callable[..., Any],
    scheme: str,
    config: dict[str, Any],
    lengths: tuple[int, ...],
    expected: int,
) -> None:
    one, two = (interpreted(count, layers, scheme, config, lengths) for layers in (1, 2))
    block = two - one
    assert block.total() == expected, block
    assert one.total() - expected <= 8, one  # before the first block and after the last
