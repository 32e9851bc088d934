"""The tensors of other decoders: what their files call them, and what joins them with a model's own encoder."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint, weight_headers
from sana_cli.checkpoints.component_weights import component_weights
from sana_cli.checkpoints.decoder_files import decoder_shapes, joined_config
from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.shapes import tiny_decoder_names, tiny_decoder_shapes
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig
from sana_cli.models.tiny_decoder import TinyDecoder


@pytest.fixture
def published(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_model))


SMALL = TinyDecoderConfig(widths=(16, 8, 8, 8), blocks=(2, 0, 1, 1), patch_size=4)


@pytest.mark.parametrize("config", [TinyDecoderConfig(), SMALL], ids=["taesana", "small"])
def test_shapes_are_the_modules(config: TinyDecoderConfig) -> None:
    state = TinyDecoder(config).state_dict()
    assert tiny_decoder_shapes(config) == {name: tuple(t.shape) for name, t in state.items()}
    assert set(tiny_decoder_names(config)) == set(state)


def test_names_are_those_of_the_published_file(decoder_files: ModuleType) -> None:
    names = tiny_decoder_names(TinyDecoderConfig())
    shapes = tiny_decoder_shapes(TinyDecoderConfig())
    tensors = decoder_files.taesana_tensors()
    assert {place: shapes[name] for name, place in names.items()} == {
        place: tuple(tensor.shape) for place, tensor in tensors.items()
    }


def test_the_encoder_stays(
    published: Checkpoint, decoder_files: ModuleType, reference: ModuleType, tmp_path: Path
) -> None:
    lite = find_decoder(str(decoder_files.write_lite(tmp_path / "lite", reference)), published)
    assert lite is not None
    joined = replace(published, decoder=lite)
    own, both = weight_headers(published, "vae"), weight_headers(joined, "vae")
    assert {n for n in both if n.startswith("encoder.")} == {
        n for n in own if n.startswith("encoder.")
    }
    assert {n for n in both if n.startswith("decoder.")} == set(decoder_shapes(lite.config))
    weights = component_weights(joined, "vae")
    assert set(weights.names) == set(both)
    name = "encoder.conv_in.weight"
    assert weights.read(name).equal(component_weights(published, "vae").read(name))
    config = (
        joined_config(published.vae, lite.config) if isinstance(lite.config, DCAEConfig) else None
    )
    assert config is not None
    assert config.encoder_block_out_channels == published.vae.encoder_block_out_channels
    assert config.upsample_block_type == "pixel_shuffle"


def test_a_tiny_one_has_no_encoder(
    published: Checkpoint, decoder_files: ModuleType, tmp_path: Path
) -> None:
    tiny = find_decoder(str(decoder_files.write_tiny(tmp_path / "tiny")), published)
    joined = replace(published, decoder=tiny)
    assert all(name.startswith("decoder.") for name in weight_headers(joined, "vae"))
    assert (
        component_weights(joined, "vae").fingerprint
        != component_weights(published, "vae").fingerprint
    )
