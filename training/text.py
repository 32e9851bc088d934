"""The small model's text side: a tokenizer of whole words and a two-layer Gemma-2.

The tokenizer is WordPiece over the closed caption vocabulary with the plural endings as pieces ("cats" is cat + ##s), so
a count teaches nothing twice, and a word outside the vocabulary becomes <unk>, which is how the pipeline can warn of it.
It lower-cases and drops punctuation by itself, adds <bos> and no end token.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from sana_cli.models.gemma2 import Gemma2
from training.vocabulary import words

# B batch, L text tokens

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")
PLURAL_ENDINGS = ("##s", "##es")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer; a function of training/vocabulary.py alone."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL_TOKENS, *words(), *PLURAL_ENDINGS))}
    tokenizer = Tokenizer(
        models.WordPiece(vocabulary, unk_token="<unk>", continuing_subword_prefix="##")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w]+"), " "),
            normalizers.Replace("grey", "gray"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=300,
        clean_up_tokenization_spaces=False,
    )


def text_encoder_config(vocabulary_size: int) -> Gemma2Config:
    """A Gemma-2 of two layers and width 160."""
    return Gemma2Config(
        vocab_size=vocabulary_size,
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=40,
        query_pre_attn_scalar=40,
        max_position_embeddings=512,
        sliding_window=512,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
        attn_implementation="eager",
    )


def build_text_encoder(vocabulary_size: int) -> Gemma2Model:
    """Freshly initialised, fp32."""
    return Gemma2Model(text_encoder_config(vocabulary_size)).float()


def tokenize(tokenizer: Any, captions: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, L) and mask (B, L) bool, padded on the right to the longest caption."""
    batch = tokenizer(captions, padding=True, return_tensors="pt")
    return batch["input_ids"].to(device), batch["attention_mask"].bool().to(device)


def text_states(text_encoder: nn.Module, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Hidden states (B, L, C) of a text encoder that is being trained, or of one that `sana_cli.loading` has read.

    Ours has no mask: it is causal and padding is on the right, so that no real token sees any.
    """
    if isinstance(text_encoder, Gemma2):
        states: Tensor = text_encoder(ids)[0]
        return states
    return text_encoder(ids, attention_mask=mask, use_cache=False).last_hidden_state


def save_text_side(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write the tokenizer folder of a checkpoint."""
    tokenizer.save_pretrained(folder / "tokenizer")
