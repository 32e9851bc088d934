"""The files of a decoder that is not the model's own: DC-AE's half, or one of convolutions alone. No torch for folders.

A DC-AE, such as DC-AE-Lite, takes the place of the decoder in the model's autoencoder, whose encoder stays. A tiny decoder
has no encoder. Its tensors have the names of TAESANA's file, in a `.pth` file or a folder.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from sana_cli.checkpoints.safetensors_headers import WeightFiles
from sana_cli.checkpoints.shapes import Headers, Shape, tiny_decoder_names
from sana_cli.config.networks import DCAEConfig, TinyDecoderConfig

_STEM = "diffusion_pytorch_model"
_HALF = "decoder."


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherDecoder:
    """A decoder whose files are there and which fits the model; weights are not read yet."""

    name: str  # as pictures store it
    config: DCAEConfig | TinyDecoderConfig
    path: Path  # a folder, or a .pth file
    digest: str

    @property
    def is_tiny(self) -> bool:
        return isinstance(self.config, TinyDecoderConfig)

    @property
    def files(self) -> WeightFiles | None:
        """The safetensors files; None for a .pth file."""
        return None if self.path.is_file() else WeightFiles(self.path, stem=_STEM)

    @property
    def paths(self) -> set[Path]:
        """The files with weights."""
        files = self.files
        return {self.path} if files is None else files.paths

    def headers(self) -> Headers:
        """Type and shape of every tensor, under the names of the autoencoder's module (`decoder.*`)."""
        files = self.files
        if files is None:
            from sana_cli.checkpoints.pth import headers_of

            stored = headers_of(self.path)
        else:
            stored = files.headers
        return {name: stored[place] for name, place in self.names(stored).items()}

    def names(self, stored: Headers) -> dict[str, str]:
        """Map the module's name of every tensor to its name in the file; an encoder's are left out."""
        if isinstance(self.config, TinyDecoderConfig):
            known = {place: name for name, place in tiny_decoder_names(self.config).items()}
            # An unknown name stays, so that who compares names finds it.
            return {f"{_HALF}{known.get(place, place)}": place for place in stored}
        return {name: name for name in stored if name.startswith(_HALF)}


def joined_config(own: DCAEConfig, other: DCAEConfig) -> DCAEConfig:
    """The autoencoder with a model's own encoder and another decoder."""
    return replace(
        other,
        encoder_block_types=own.encoder_block_types,
        encoder_block_out_channels=own.encoder_block_out_channels,
        encoder_layers_per_block=own.encoder_layers_per_block,
        encoder_qkv_multiscales=own.encoder_qkv_multiscales,
        encoder_out_shortcut=own.encoder_out_shortcut,
        downsample_block_type=own.downsample_block_type,
        scaling_factor=own.scaling_factor,
    )


def decoder_shapes(config: DCAEConfig | TinyDecoderConfig) -> dict[str, Shape]:
    """The tensors that a decoder has by its configuration, under the names of the autoencoder's module."""
    from sana_cli.checkpoints.shapes import autoencoder_shapes, tiny_decoder_shapes

    if isinstance(config, TinyDecoderConfig):
        return {f"{_HALF}{name}": shape for name, shape in tiny_decoder_shapes(config).items()}
    shapes = autoencoder_shapes(config)
    return {name: shape for name, shape in shapes.items() if name.startswith(_HALF)}
