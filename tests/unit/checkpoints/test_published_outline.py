"""A published model is known by its configuration, as its files would be."""

import gc
import json

import pytest

from sana_cli.checkpoints.published_outline import PublishedOutline
from sana_cli.config.variants import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_files(name: str) -> None:
    variant = VARIANTS[name]
    outline = PublishedOutline(variant)
    index = json.loads((outline.folder / "model_index.json").read_text())
    assert index["_class_name"] == ("SanaSprintPipeline" if variant.sprint else "SanaPipeline")
    scheduler = json.loads((outline.folder / "scheduler/scheduler_config.json").read_text())
    kind = "SCMScheduler" if variant.sprint else "DPMSolverMultistepScheduler"
    assert scheduler["_class_name"] == index["scheduler"][1] == kind
    assert scheduler.get("flow_shift") == (None if variant.sprint else variant.flow_shift)
    tokenizer = outline.folder / "tokenizer/tokenizer.json"
    assert tokenizer.stat().st_size == variant.download_bytes["tokenizer"]
    assert tokenizer.stat().st_blocks == 0, "a hole"


@pytest.mark.parametrize("name", VARIANTS)
def test_headers(name: str) -> None:
    """Stored as published: the transformer in the halves that it was trained in."""
    variant = VARIANTS[name]
    outline = PublishedOutline(variant)
    types = {
        part: {dtype for dtype, _ in outline.headers(part).values()}
        for part in ("transformer", "vae", "text_encoder")
    }
    half = {"fp16": "F16", "bf16": "BF16"}[variant.precision]
    assert types == {"transformer": {half}, "vae": {"F32"}, "text_encoder": {"BF16"}}
    elements = 0
    for _, shape in outline.headers("transformer").values():
        size = 1
        for side in shape:
            size *= side
        elements += size
    assert 2 * elements == pytest.approx(variant.transformer_bytes, rel=0.01)


def test_a_folder_goes_with_its_outline() -> None:
    outline = PublishedOutline(VARIANTS["sana-0.6b"])
    folder = outline.folder
    assert folder.is_dir()
    del outline
    gc.collect()
    assert not folder.exists()
