"""Configurations from JSON: what is missing gets its default, what makes no sense is refused."""

import pytest

from sana_cli.config.networks import DCAEConfig, OwnSettings, TransformerConfig


def test_missing_and_unknown_fields() -> None:
    config = TransformerConfig.from_dict(
        {"num_layers": 3, "_diffusers_version": "0.42", "qk_norm": None}
    )
    assert (config.num_layers, config.qk_norm, config.timestep_scale) == (3, None, 1.0)
    assert config.inner_dim == 2240
    assert config.ff_dim == 5600


@pytest.mark.parametrize(
    "values",
    [
        {"qk_norm": "layer_norm"},
        {"patch_size": 2},
        {"num_layers": 0},
        {"cross_attention_head_dim": 96},
        {"sample_size": 0},
    ],
    ids=str,
)
def test_unfit_transformer(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        TransformerConfig.from_dict(values)


@pytest.mark.parametrize(
    "values",
    [
        {"encoder_block_out_channels": [8, 8]},
        {"decoder_block_types": ["UNet"] * 6},
        {"decoder_norm_types": "batch_norm"},
    ],
    ids=str,
)
def test_unfit_autoencoder(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        DCAEConfig.from_dict(values)


def test_published_autoencoder() -> None:
    assert DCAEConfig().downscale == 32
    assert DCAEConfig.from_dict({"decoder_act_fns": "silu"}).decoder_stage_acts == ("silu",) * 6


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": "20"},
        {"native_size": True},
        {"guidance": "high"},
        {"precision": "int8"},
        {"enhance": "no"},
        {"description": 3},
        {"vocabulary": "cat"},
    ],
    ids=str,
)
def test_unfit_own_settings(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        OwnSettings.from_dict(values)


def test_own_settings() -> None:
    own = OwnSettings.from_dict({"steps": 14, "vocabulary": {"food": ["pizza"]}, "name": "builtin"})
    assert own.steps == 14
    assert own.vocabulary == {"food": ("pizza",)}
