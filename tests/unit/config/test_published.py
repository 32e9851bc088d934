"""The published constants, read from source text, equal what the package itself holds."""

import inspect

import pytest

from sana_cli.config.published import aspect_ratio_bins, complex_human_instruction


def test_instruction_equals_the_pipelines_default() -> None:
    from diffusers import SanaPipeline

    default = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"]
    assert complex_human_instruction() == "\n".join(default.default)
    assert complex_human_instruction().endswith("User Prompt: ")


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
def test_bins_equal_the_pipelines_tables(size: int) -> None:
    from diffusers.pipelines.sana import pipeline_sana

    table = getattr(pipeline_sana, f"ASPECT_RATIO_{size}_BIN")
    assert aspect_ratio_bins(size) == {float(k): tuple(map(int, v)) for k, v in table.items()}


def test_no_table_for_other_sizes() -> None:
    with pytest.raises(ValueError, match="256"):
        aspect_ratio_bins(256)
