"""Whether the parts of a folder are Sana's, and each other's."""

from dataclasses import replace
from typing import Any

import pytest

from sana_cli.checkpoints.fitness import (
    REMEDY,
    is_sana,
    naming_pipeline,
    require_class,
    require_fitting_parts,
    require_fitting_tensors,
    require_pipeline,
)
from sana_cli.checkpoints.shapes import autoencoder_shapes
from sana_cli.config.networks import DCAEConfig, Gemma2Config, TransformerConfig
from sana_cli.errors import SanaError, checkpoint_error

TRANSFORMER, VAE, TEXT = TransformerConfig(), DCAEConfig(), Gemma2Config()


def test_published_parts_fit() -> None:
    require_fitting_parts(TRANSFORMER, VAE, TEXT)


@pytest.mark.parametrize(
    ("transformer", "vae", "text", "message"),
    [
        ({"out_channels": 16}, {}, {}, "from 32 to 16 channels"),
        ({}, {"in_channels": 1}, {}, "1-channel pictures"),
        ({"caption_channels": 48}, {}, {}, "is 2304 wide, the transformer reads 48"),
        ({}, {}, {"hidden_size": 64}, "is 64 wide, the transformer reads 2304"),
        ({}, {"latent_channels": 8}, {}, r"\(f32c8\) does not fit the transformer \(f32c32\)"),
    ],
)
def test_parts_of_other_models(transformer: Any, vae: Any, text: Any, message: str) -> None:
    with pytest.raises(SanaError, match=message) as caught:
        require_fitting_parts(
            replace(TRANSFORMER, **transformer), replace(VAE, **vae), replace(TEXT, **text)
        )
    assert caught.value.hint


@pytest.mark.parametrize(
    ("component", "kind", "fits"),
    [
        ("transformer", "SanaTransformer2DModel", True), ("transformer", None, True), ("vae", "AutoencoderDC", True),
        ("text_encoder", "anything", True), ("transformer", "FluxTransformer2DModel", False), ("vae", 3, False),
    ],
)  # fmt: skip
def test_classes(component: str, kind: object, fits: bool) -> None:
    if fits:
        require_class(component, {"_class_name": kind})
    else:
        with pytest.raises(SanaError, match=f"its {component} is a {kind}, not the "):
            require_class(component, {"_class_name": kind})


@pytest.mark.parametrize(
    ("kind", "named"),
    [("FluxPipeline", True), ("SanaPipeline", False), ("SanaPAGPipeline", False), (None, False), ("", False)],
)  # fmt: skip
def test_the_pipeline_is_named_where_it_is_another(kind: object, named: bool) -> None:
    with pytest.raises(SanaError) as caught, naming_pipeline("mine", {"_class_name": kind}):
        raise checkpoint_error("a.weight is missing", hint="look")
    message = "mine is a FluxPipeline, no Sana pipeline: a.weight is missing"
    assert caught.value.message == (message if named else "a.weight is missing")
    assert caught.value.hint == (REMEDY if named else "look")


def test_a_pipeline_of_any_name_is_printable() -> None:
    with pytest.raises(SanaError) as caught, naming_pipeline("m", {"_class_name": "\x1b[2J" * 99}):
        raise checkpoint_error("x")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 100


PARTS = {
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"], "text_encoder": ["transformers", "Gemma2Model"],
    "tokenizer": ["transformers", "GemmaTokenizer"], "transformer": ["diffusers", "SanaTransformer2DModel"],
    "vae": ["diffusers", "AutoencoderDC"],
}  # fmt: skip
CONTROL = {"controlnet": ["diffusers", "SanaControlNetModel"]}


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ({"_class_name": "SanaPipeline"}, ""),
        ({"_class_name": "SanaSprintImg2ImgPipeline"}, ""),
        ({"_class_name": "MyPipeline", "strength": [1, 2], "safety_checker": [None, None], **PARTS}, "it draws with a strength (2), which"),
        ({"_class_name": "MyPipeline", "shift": 3.0, "safety_checker": [None, None], **PARTS}, ""),
        ({"_class_name": "SanaControlNetPipeline", **PARTS, **CONTROL}, ""),
        ({"_class_name": "MyPipeline", **PARTS, **CONTROL}, ""),
        ({"_class_name": "MyPipeline", **PARTS, "controlnet": ["diffusers", "FluxControlNetModel"]}, "it draws with a controlnet (FluxControlNetModel), which"),
        ({"_class_name": "MyPipeline", **PARTS, "image_encoder": ["transformers", "CLIPVisionModel"]}, "it draws with a image_encoder (CLIPVisionModel), which"),
        ({"_class_name": "SanaVideoPipeline", **PARTS, "vae": ["diffusers", "AutoencoderKLWan"]}, "it draws with a vae (AutoencoderKLWan), which"),
        ({"_class_name": "StableDiffusionPipeline"}, "it lists no scheduler"),
        ({"_class_name": 3}, "it lists no scheduler"),
        ({}, ""),
    ],
)  # fmt: skip
def test_pipelines_that_draw_with_other_parts(index: dict[str, Any], reason: str) -> None:
    """A class of another name draws if its parts are Sana's, and it has no others."""
    assert is_sana(index) == (not reason and bool(index))
    if not reason:
        require_pipeline(index)
        return
    with pytest.raises(SanaError) as caught:
        require_pipeline(index)
    assert caught.value.message.startswith(reason)


def test_tensors_are_those_of_the_configuration() -> None:
    headers = {name: ("F32", shape) for name, shape in autoencoder_shapes(VAE).items()}
    require_fitting_tensors({"vae": VAE}, {"vae": headers}, None)
    headers.pop("decoder.conv_in.weight")
    with pytest.raises(SanaError, match=r"vae: missing tensor decoder\.conv_in\.weight"):
        require_fitting_tensors({"vae": VAE}, {"vae": headers}, None)
