"""Latents of the pictures that others begin with. The encoder is in memory only while it encodes."""

# C latent channels, h w latent grid

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from quant.backends.dispatch import Backend
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.images.tensors import to_tensor
from sana_cli.loading.load import load_vae
from sana_cli.pipeline.finishing import accelerate_with_notice
from sana_cli.pipeline.verbs import Start, encode_image
from sana_cli.progress import Reporter, Stopwatch
from sana_cli.request.init_image import (
    Paste,
    Source,
    as_drawn,
    fitted,
    read_image,
    read_mask,
    touched_positions,
)
from sana_cli.request.params import Settings
from sana_cli.system.torch_memory import release_memory

_Key = tuple[str, int, int, int, int]


class SourceStage:
    """Encoded originals of one model, in one precision."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        backend: Backend,
        reporter: Reporter,
        stopwatch: Stopwatch,
    ) -> None:
        self.checkpoint, self.device, self.backend = checkpoint, device, backend
        self.reporter, self.stopwatch = reporter, stopwatch
        self._latents: dict[_Key, Tensor] = {}

    def lacks(self, settings: Settings) -> bool:
        """Whether a picture must be encoded first."""
        needed = settings.source is not None and settings.source.is_encoded
        return needed and _key(settings) not in self._latents

    def forget(self) -> None:
        """They are to be encoded again, in another precision."""
        self._latents = {}

    def encode(self, wanted: Sequence[Settings], precision: str) -> None:
        """Encode the originals of these pictures, in place of earlier ones. Raises BrokenValues."""
        distinct = {_key(s): s for s in wanted if s.source is not None and s.source.is_encoded}
        self._latents = {key: self._latents[key] for key in distinct if key in self._latents}
        missing = {key: s for key, s in distinct.items() if key not in self._latents}
        with self.stopwatch.timed("load"), self.reporter.stage("load encoder"):
            vae = load_vae(
                self.checkpoint, dtype=precision, device=self.device, halves=("encoder",)
            )
            accelerate_with_notice(vae.encoder, self.device, self.backend, self.reporter)
        total = len(missing) if len(missing) > 1 else None
        with self.stopwatch.timed("encode"), self.reporter.stage("encode", total) as advance:
            for key, settings in missing.items():
                assert settings.source is not None
                image = fitted(
                    read_image(settings.source.image.path), settings.width, settings.height
                )
                drawn = as_drawn(image, settings.drawn_width, settings.drawn_height)
                self._latents[key] = encode_image(vae, to_tensor(drawn).to(self.device))
                if total:
                    advance()
        del vae
        release_memory(self.device)

    def start(self, settings: Settings) -> Start | None:
        """Where denoising begins, if not in noise; what it needs was encoded."""
        source = settings.source
        if source is None or not source.is_encoded:
            return None
        redrawn = None
        if source.mask is not None:
            mask = as_drawn(_mask(source, settings), settings.drawn_width, settings.drawn_height)
            touched = torch.from_numpy(touched_positions(mask, self.checkpoint.vae.downscale))
            redrawn = touched[None, None].to(self.device)
        return Start(self._latents[_key(settings)], source.first, redrawn)


def paste_of(settings: Settings) -> Paste | None:
    """What stays of the original, if only a part of it is redrawn."""
    source = settings.source
    if source is None or source.mask is None:
        return None
    original = fitted(read_image(source.image.path), settings.width, settings.height)
    return Paste(original=original, mask=_mask(source, settings))


def _mask(source: Source, settings: Settings) -> Image.Image:
    """Of the finished picture's size, cut as the original is."""
    assert source.mask is not None
    size = source.image.width, source.image.height
    mask = read_mask(source.mask.path).resize(size, Image.Resampling.NEAREST)
    return fitted(mask, settings.width, settings.height)


def _key(settings: Settings) -> _Key:
    """What decides the latents of an original, beside the precision."""
    s, source = settings, settings.source
    assert source is not None
    return source.image.digest, s.width, s.height, s.drawn_width, s.drawn_height
