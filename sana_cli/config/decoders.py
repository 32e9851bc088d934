"""Published decoders that draw with the latents of DC-AE f32c32, faster than its own. Data only."""

from typing import Literal, NamedTuple

FULL = "full"  # the model's own decoder
TINY = "tiny"
PUBLISHED_SCALING = 0.41407  # of the autoencoder whose latents both of them decode


class PublishedDecoder(NamedTuple):
    """A decoder by its short name, and where it is published."""

    name: str
    kind: Literal["hub", "file"]
    source: str  # a repository of the hub, or the address of a file
    license: str
    bytes: int  # to download, approximately
    file: str = ""  # its name here
    blob_id: str = ""  # of a file, as git names its content


DECODERS = {
    "lite": PublishedDecoder(  # ResBlocks alone, without attention; 1.8 times as fast on a GPU
        name="lite",
        kind="hub",
        source="mit-han-lab/dc-ae-lite-f32c32-sana-1.1-diffusers",
        license="Apache-2.0",
        bytes=1_200_000_000,
    ),
    TINY: PublishedDecoder(  # TAESANA
        name=TINY,
        kind="file",
        source="https://github.com/madebyollin/taesd/raw/2a1b4149efda2cb6da482e8d3ff017bdb4f98fc3/taesana_decoder.pth",
        file="taesana_decoder.pth",
        license="MIT",
        bytes=16_600_000,
        blob_id="aa645f9d0a0a1c6b5ed1fc5b446e764af4843a9f",
    ),
}
