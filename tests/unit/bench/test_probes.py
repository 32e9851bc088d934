"""What a device can do at most, where libraries have fewer instructions than the processor."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quant.backends.cpu import int8_products
from sana_cli.bench import probes


class Avx2Alone(TorchDispatchMode):
    """oneDNN refuses bf16, and torch multiplies it by other means."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "mkldnn" and args[0].dtype == torch.bfloat16:
            raise RuntimeError("could not create a primitive descriptor")
        return func(*args, **(kwargs or {}))


def test_without_bf16_instructions() -> None:
    effort = probes.Effort(shape=(32, 64, 64), copy_bytes=2**10, seconds=0.0)
    with Avx2Alone():
        found = probes.ceilings(torch.device("cpu"), effort)
    assert set(found) == {"fp32", "bf16", "int8", "copy"}
    assert all(value > 0 for value in found.values())


@pytest.mark.parametrize("slow_first", [False, True])
def test_the_fastest_library_is_the_ceiling(
    slow_first: bool, passes: Callable[[float], None]
) -> None:
    """On some CPUs `torch._int_mm` is 60 times as slow as oneDNN: w8a8 then reached 505 % of the floor."""
    calls: list[str] = []

    def product(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            passes(seconds)

        return run

    products = [product("quick", 0.001), product("slow", 0.2)]
    best = probes._best(products[::-1] if slow_first else products, torch.device("cpu"), 0.0)
    assert best < 0.1
    assert calls.count("slow") == (1 + probes._LEAST if slow_first else 1)


def test_8_bit_products_are_right() -> None:
    """All of the products that the ceiling is taken from compute the same, with weights that none saturates."""
    a = torch.randint(-127, 128, (24, 64), dtype=torch.int8)
    b = torch.randint(-63, 64, (48, 64), dtype=torch.int8)
    expected = a.double() @ b.double().T
    found = [product().double() for product in int8_products(a, b)]
    assert found
    for out in found:
        torch.testing.assert_close(out, expected)
