"""Budgets and sizes of training for two kinds of machine, as plain data; the networks are the same."""

from dataclasses import dataclass
from enum import StrEnum


class PresetName(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


@dataclass(frozen=True, kw_only=True)
class AutoencoderSettings:
    """Sizes of the run; the network is the same for every preset."""

    # Until which share of the budget, px, batch.
    phases: tuple[tuple[float, int, int], ...] = ((0.15, 64, 64), (0.6, 128, 16), (1.0, 256, 6))
    peak_lr: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 1e-4
    ema_decay: float = 0.998
    latent_penalty: float = 1e-3
    edge_weight: float = 0.5
    decoder_peak_lr: float = 1e-3  # of the second stage
    decoder_latent_noise: float = 0.1  # standard deviation, as a share of the latents' own
    compile: bool = False  # slower on a CPU for whole pictures


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """Sizes of the run; the network is the same for every preset."""

    batch: int = 128
    peak_lr: float = 2e-3
    muon_lr_factor: float = 2.5  # matrices learn at this multiple of the rate
    warmup_steps: int = 150
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    caption_dropout: float = 0.12
    pool: int = (
        6_000  # scenes encoded before the first step, over all workers; fewer for a short run
    )
    pool_limit: int = 60_000
    refresh_every: int = 10  # steps between two additions of ENCODE_BATCH scenes a worker; the oldest go when it is full
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class DistilDecoderSettings:
    """Sizes of the run; the network is the same for every preset."""

    crop_batch: int = 24  # crops of a quarter of a picture, a worker
    batch: int = 6  # whole pictures, a worker
    crops_until: float = 0.68  # share of the budget
    average_every: int = 16  # steps between two averages of the workers' weights
    peak_lr: float = 2e-3
    muon_lr_factor: float = 4.0  # convolutions inside blocks learn at this multiple of the rate
    warmup_steps: int = 60
    ema_decay: float = 0.93  # of the averages
    latent_noise: float = 0.12  # largest standard deviation on encoded latents of unit variance
    pool: int = 500  # pictures of the teacher before the first step, over all workers
    pool_limit: int = 6_000
    refresh_every: int = 50  # steps between two additions of TEACH_BATCH pictures a worker


@dataclass(frozen=True, kw_only=True)
class DistilStepsSettings:
    """Sizes of the run; the network is the teacher's."""

    batch: int = 32
    peak_lr: float = 1e-3
    muon_lr_factor: float = 2.5
    warmup_steps: int = 30
    ema_decay: float = 0.99
    guidance: tuple[float, float] = (3.0, 5.0)  # of the paths; an input of the student
    path_steps: int = 10
    first_paths: int = 256  # before the first step
    bank: int = 4_000  # paths that are kept
    refresh_every: int = 10  # steps between two additions of PATHS_AT_ONCE paths
    start_share: float = 0.35  # of the points, at pure noise
    continuous_from: float = 0.75  # share of the budget after which regression ends
    continuous_peak_lr: float = 5e-5
    continuous_warmup: float = 0.05  # share of the budget
    anchors: float = 0.5  # weight of the regression next to the continuous loss; 0: none
    log_tangent: tuple[float, float] = (0.4, 1.2)  # mean and deviation of ln tan(t)


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """Sizes of the run; the network is the first `blocks` of its base's."""

    blocks: int = 2
    batch: int = 32
    peak_lr: float = 2e-3
    muon_lr_factor: float = 2.0
    warmup_steps: int = 50
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    caption_dropout: float = 0.12
    pool: int = 400  # drawings encoded before the first step
    pool_limit: int = 20_000
    refresh_every: int = 4  # steps between two additions of ENCODE_BATCH drawings


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Minutes and sizes of one run."""

    dc_ae_minutes: float
    transformer_minutes: float
    decoder_minutes: float
    dc_ae: AutoencoderSettings
    transformer: TransformerSettings


PRESETS = {
    PresetName.CPU: Preset(  # two cores, about four hours
        dc_ae_minutes=64,
        transformer_minutes=160,
        decoder_minutes=11,
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
