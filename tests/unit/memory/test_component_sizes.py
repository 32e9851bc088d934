"""What is predicted from headers is what loading makes of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.loading.load import load_prompt_encoder, load_transformer, load_vae
from sana_cli.memory.component_sizes import takes_8_bits, weights_of

LOADERS = {
    "transformer": load_transformer,
    "vae": lambda *a, **o: load_vae(*a, **o).decoder,
    "text_encoder": lambda *a, **o: load_prompt_encoder(*a, **o).model,
}


def held(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers that came from a file."""
    return sum(tensor.nbytes for tensor in module.state_dict().values())


@pytest.fixture
def int4(quantized: Callable[..., Path]) -> Path:
    return quantized("int4", "builtin")


@pytest.mark.parametrize("component", LOADERS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["builtin", "int4"])
def test_weights_take_what_headers_tell(int4: Path, kind: str, dtype: str, component: str) -> None:
    model = open_checkpoint("builtin" if kind == "builtin" else str(int4))
    loaded = LOADERS[component](model, dtype=dtype, device=torch.device("cpu"))
    foretold = weights_of(model, component, dtype)
    assert foretold.total == held(loaded)
    assert foretold.largest > 0
    assert (foretold.unpacked > 0) == (kind == "int4")
    blocks = {"transformer": "transformer_blocks", "text_encoder": "layers"}.get(component)
    if blocks:
        sizes = [held(block) for block in loaded.get_submodule(blocks)]
        assert foretold.block == max(sizes)
        assert foretold.rest == held(loaded) - sum(sizes)


@pytest.mark.parametrize("kind", ["builtin", "int4"])
def test_the_encoder_takes_what_headers_tell(int4: Path, kind: str) -> None:
    model = open_checkpoint("builtin" if kind == "builtin" else str(int4))
    loaded = load_vae(model, dtype="fp32", device=torch.device("cpu"), halves=("encoder",))
    assert weights_of(model, "vae", "fp32", without="decoder.").total == held(loaded.encoder)


def test_int8_inputs_are_known_from_the_manifest(int4: Path) -> None:
    assert not takes_8_bits(open_checkpoint("builtin"), "transformer")
    assert not takes_8_bits(open_checkpoint(str(int4)), "transformer"), "weights alone"
