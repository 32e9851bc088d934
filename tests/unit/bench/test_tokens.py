"""What a benchmark counts as text is what the text encoder reads and gives on."""

from dataclasses import replace

import pytest
import torch

from sana_cli.bench.adapter import count_tokens
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.config.generation import GenerationOptions
from sana_cli.loading.load import load_prompt_encoder
from sana_cli.models.text_encoder import MAX_PROMPT_TOKENS
from sana_cli.request.params import resolve


@pytest.mark.parametrize("enhance", [True, False])
@pytest.mark.parametrize("words", [1, 30, 400])
def test_as_the_text_encoder_does(enhance: bool, words: int) -> None:
    checkpoint = open_checkpoint("builtin")
    encoder = load_prompt_encoder(checkpoint, dtype="fp32", device=torch.device("cpu"))
    prompt = " ".join(["a red cat", *["and a cat"] * (words // 3)])
    settings = replace(resolve(GenerationOptions(prompt=prompt), checkpoint), enhance=enhance)
    counted = count_tokens(encoder.tokenizer, settings)
    with torch.inference_mode():
        seen = encoder.encode(prompt, enhance=enhance).embeds.shape[-2]
    assert counted["seen"][-1] == seen
    assert (seen == MAX_PROMPT_TOKENS) == (words == 400)
    assert counted["read"][-1] >= seen
