import torch
from torch import nn

from sana_cli.loading.without_values import WithoutValues


def build() -> nn.Module:
    return nn.ModuleList([
        nn.Linear(8, 4), nn.Conv2d(4, 4, 3), nn.LayerNorm(4), nn.Embedding(5, 4), nn.Conv2d(4, 4, 1, bias=False),
    ])  # fmt: skip


def test_the_same_network_whose_values_nobody_draws() -> None:
    with torch.device("meta"):
        usual = build()
    before = torch.random.get_rng_state()
    with torch.device("meta"), WithoutValues():
        found = build()
    shapes = {name: (value.shape, value.dtype) for name, value in usual.state_dict().items()}
    assert shapes == {name: (v.shape, v.dtype) for name, v in found.state_dict().items()}
    assert {value.device.type for value in found.state_dict().values()} == {"meta"}
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    with WithoutValues():  # here values would be drawn
        build()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.random.set_rng_state(before)


def test_other_functions_are_called() -> None:
    with WithoutValues():
        assert torch.ones(2).mul(3).tolist() == [3, 3]
    with WithoutValues(), torch.device("meta"):
        tensor = nn.init.ones_(tensor=torch.empty(2))
    assert tensor.is_meta
