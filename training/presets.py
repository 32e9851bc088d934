"""Budgets and batch sizes for two kinds of machine; the networks are the same."""

from dataclasses import dataclass
from enum import StrEnum

from training.dc_ae import AutoencoderSettings
from training.transformer import TransformerSettings


class PresetName(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Minutes and sizes of one run."""

    dc_ae_minutes: float
    transformer_minutes: float
    decoder_minutes: float
    dc_ae: AutoencoderSettings
    transformer: TransformerSettings


PRESETS = {
    PresetName.CPU: Preset(  # two cores, about two hours
        dc_ae_minutes=46,
        transformer_minutes=66,
        decoder_minutes=12,
        dc_ae=AutoencoderSettings(),
        transformer=TransformerSettings(),
    ),
    PresetName.GPU: Preset(  # one H100-class GPU, about 20 minutes; not measured yet
        dc_ae_minutes=8,
        transformer_minutes=10,
        decoder_minutes=2,
        dc_ae=AutoencoderSettings(
            phases=((0.15, 64, 256), (0.6, 128, 64), (1.0, 256, 24)), compile=True
        ),
        transformer=TransformerSettings(
            batch=512, pool=40_000, refresh_every=1, ema_decay=0.999, compile=True
        ),
    ),
}
