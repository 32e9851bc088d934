"""Check that a model's parts are those that Sana draws with: their classes and tensor shapes. No
torch.

The check runs whenever a model is opened, so that no stage runs, and nothing is downloaded, for a
model that a later stage would refuse.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from quant.manifest import Manifest
from sana_cli.checkpoints.shapes import (
    Headers,
    autoencoder_shapes,
    controlnet_shapes,
    quantized_shapes,
    require_shapes,
    text_encoder_shapes,
    transformer_shapes,
)
from sana_cli.config.components import OPTIONAL
from sana_cli.config.networks import (
    ControlNetConfig,
    DCAEConfig,
    Gemma2Config,
    TransformerConfig,
)
from sana_cli.errors import SanaError, checkpoint_error

PartConfig = TransformerConfig | DCAEConfig | Gemma2Config | ControlNetConfig

REMEDY = "sana draws with Sana models: `sana models` lists the published ones"
# Those of diffusers that draw with the five parts of Sana, and with nothing else but a ControlNet.
_PIPELINES = (
    "SanaPipeline",
    "SanaSprintPipeline",
    "SanaPAGPipeline",
    "SanaSprintImg2ImgPipeline",
    "SanaControlNetPipeline",
)
_CLASSES = {  # by component
    "transformer": "SanaTransformer2DModel", "vae": "AutoencoderDC", "controlnet": "SanaControlNetModel",
}  # fmt: skip
_TEXT_ENCODERS = ("Gemma2Model", "Gemma2ForCausalLM")


@contextmanager
def naming_pipeline(model: str, index: Mapping[str, Any]) -> Iterator[None]:
    """Errors in the block also name the kind of pipeline that `index`, a model_index.json, describes."""
    try:
        yield
    except SanaError as error:
        kind = index.get("_class_name")
        if isinstance(kind, str) and kind and kind not in _PIPELINES:
            error.message = f"{model} is a {_shown(kind)}, no Sana pipeline: {error.message}"
            error.hint = REMEDY
        raise


def require_pipeline(index: Mapping[str, Any]) -> None:
    """Raise SanaError for a model_index.json of a pipeline that draws with other parts than Sana's.

    A class of any name is accepted if its parts are Sana's and it has no others: such a pipeline
    differs in how it samples. An image encoder would be omitted in silence.
    """
    if reason := _unlike_sana(index):
        raise checkpoint_error(reason, hint=REMEDY)


def is_sana(index: Mapping[str, Any]) -> bool:
    """Return whether a model_index.json describes a pipeline that `require_pipeline` accepts."""
    return bool(index.get("_class_name")) and not _unlike_sana(index)


def _unlike_sana(index: Mapping[str, Any]) -> str:
    """Name a part that is none of Sana's, or that is not there; "" if all are Sana's."""
    if not index.get("_class_name") or index["_class_name"] in _PIPELINES:
        return ""
    classes = {"scheduler": None, "tokenizer": None, "text_encoder": _TEXT_ENCODERS}
    allowed = classes | {part: (kind,) for part, kind in _CLASSES.items()}
    for part, described in index.items():
        if not isinstance(described, list) or not described or described[-1] is None:
            continue  # a setting, or a part that is not there
        kind, known = str(described[-1]), allowed.get(part, ())
        if known is not None and kind not in known:
            return f"it draws with a {_shown(part)} ({_shown(kind)}), which sana does not"
    lacking = (p for p in allowed if p not in OPTIONAL and not isinstance(index.get(p), list))
    missing = next(lacking, None)
    return f"it lists no {missing}" if missing else ""


def require_class(component: str, config: Mapping[str, Any]) -> None:
    """Raise SanaError for a part whose config.json names another class; `Gemma2Config` checks the
    text encoder.
    """
    kind = config.get("_class_name")
    if component in _CLASSES and kind not in (None, _CLASSES[component]):
        raise checkpoint_error(
            f"its {component} is a {_shown(str(kind))}, not the {_CLASSES[component]} of Sana",
            hint=REMEDY,
        )


def require_fitting_parts(
    transformer: TransformerConfig, vae: DCAEConfig, text: Gemma2Config
) -> None:
    if transformer.out_channels != transformer.in_channels or vae.in_channels != 3:
        raise checkpoint_error(
            f"a transformer from {transformer.in_channels} to {transformer.out_channels} channels, or an "
            f"autoencoder of {vae.in_channels}-channel pictures, draws nothing",
            hint="use the folder of a published Sana model",
        )
    if text.hidden_size != transformer.caption_channels:
        raise checkpoint_error(
            f"the text encoder is {text.hidden_size} wide, the transformer reads {transformer.caption_channels}",
            hint="use the text_encoder/ folder that belongs to this transformer",
        )
    if vae.downscale != 32 or vae.latent_channels != transformer.in_channels:
        raise checkpoint_error(
            f"the autoencoder (f{vae.downscale}c{vae.latent_channels}) does not fit the transformer "
            f"(f32c{transformer.in_channels})",
            hint="use the vae/ folder of a published Sana model",
        )


def require_fitting_tensors(
    configs: Mapping[str, PartConfig],
    headers: Mapping[str, Headers],
    manifest: Manifest | None,
) -> None:
    """SanaError naming the first tensor that does not fit its part's configuration. Keys are components."""
    for component, config in configs.items():
        match config:
            case TransformerConfig():
                expected = transformer_shapes(config)
            case DCAEConfig():
                expected = autoencoder_shapes(config)
            case Gemma2Config():
                expected = text_encoder_shapes(config)
            case ControlNetConfig():
                expected = controlnet_shapes(config)
        if manifest is not None:
            expected = quantized_shapes(expected, manifest.components[component].layers)
        require_shapes(expected, headers[component], component)


def _shown(kind: str) -> str:
    return "".join(c for c in kind[:60] if c.isprintable())
