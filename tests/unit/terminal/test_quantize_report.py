"""The table of `sana quantize`."""

import pytest

from sana_cli.terminal.quantize_report import _measured_on


@pytest.mark.parametrize(
    ("calibrated", "quantized", "words"),
    [(14, 15, "14 outputs, 1 weight"), (15, 15, "outputs"), (0, 15, "weights"), (0, 0, "")],
)
def test_what_was_measured(calibrated: int, quantized: int, words: str) -> None:
    facts = {"layers_calibrated": calibrated, "layers_quantized": quantized}
    assert _measured_on(facts) == words
