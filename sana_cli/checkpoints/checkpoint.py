"""A model whose files are known and fit together, and the headers of its weights. No torch."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from quant.manifest import Manifest
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.file_selection import STEMS
from sana_cli.checkpoints.lora_file import Lora
from sana_cli.checkpoints.obtaining import Absent
from sana_cli.checkpoints.other_quantization import refuse_tensors
from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.config.components import NETWORKS
from sana_cli.config.networks import (
    ControlNetConfig,
    DCAEConfig,
    OwnSettings,
    RunDefaults,
    TransformerConfig,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A model whose files are there and whose configuration makes sense; weights are not read yet."""

    name: str  # as asked for
    folder: Path  # holds vae/, text_encoder/, tokenizer/, scheduler/ and mostly transformer/
    revision: str | None  # of the hub, when it came from there
    pth: Path | None  # the transformer, when it is an original file
    weight_variant: str | None
    transformer: TransformerConfig
    vae: DCAEConfig
    trained_precision: str
    defaults: RunDefaults
    own: OwnSettings
    manifest: Manifest | None = None  # of a quantized folder
    absent: Absent | None = None  # known by its configuration and headers; it cannot be loaded
    loras: tuple[Lora, ...] = ()  # that its transformer is changed by
    decoder: OtherDecoder | None = None  # in the place of the autoencoder's own
    controlnet: ControlNetConfig | None = None  # of a model that can follow a control picture

    @property
    def parts(self) -> tuple[str, ...]:
        """The components with weights."""
        return NETWORKS if self.controlnet is None else (*NETWORKS, "controlnet")


PTH_PARTS = ("transformer", "controlnet")  # that an original file holds


def weight_files(checkpoint: Checkpoint, component: str) -> WeightFiles:
    """A component's safetensors files, by their headers. Not for the transformer of a .pth file."""
    # The variant is the transformer's; the other parts are the same in all their files.
    variant = checkpoint.weight_variant if component == "transformer" else None
    stem = STEMS[component] if checkpoint.manifest is None else "model"
    files = WeightFiles(checkpoint.folder / component, stem=stem, weight_variant=variant)
    if checkpoint.manifest is None:
        refuse_tensors(files.folder, files.headers)
    return files


def module_names(component: str, names: Iterable[str]) -> dict[str, str]:
    """Map the module's own name of every tensor to its name in the file."""
    if component != "text_encoder":
        return {name: name for name in names}
    # Files saved with a language-model head have a prefix and maybe the head.
    return {name.removeprefix("model."): name for name in names if name != "lm_head.weight"}


def weight_headers(
    checkpoint: Checkpoint, component: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type (in safetensors' words) and shape of every tensor, under the module's own names."""
    if checkpoint.pth is not None and component in PTH_PARTS:
        from sana_cli.checkpoints.pth import header_of, read_part

        tensors = read_part(checkpoint.pth, component)
        return {name: header_of(tensor) for name, tensor in tensors.items()}
    if component == "vae" and (other := checkpoint.decoder) is not None:
        if other.is_tiny:
            return dict(other.headers())
        own = weight_headers(replace(checkpoint, decoder=None), component)
        encoder = {name: facts for name, facts in own.items() if name.startswith("encoder.")}
        return {**encoder, **other.headers()}
    if checkpoint.absent is not None:
        headers = checkpoint.absent.headers(component)
        refuse_tensors(checkpoint.folder / component, headers)
    else:
        headers = weight_files(checkpoint, component).headers
    names = module_names(component, headers)
    return {name: headers[stored] for name, stored in names.items()}
