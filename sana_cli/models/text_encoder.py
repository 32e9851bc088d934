"""Prompts -> Gemma-2 hidden states, as Sana was trained: instruction prefix, BOS + last 299 tokens.

Equal to encoding padded sequences and masking, but only real tokens are ever computed, and the constant instruction
prefix runs once: its keys and values are kept, on disk too where there is a place (the decoder is causal and padding is
on the right, so nothing that follows changes them). It always runs by itself, and not together with a first prompt:
rounding depends on the number of rows, and a prompt's embeddings must not depend on the order of prompts.
"""

# L text tokens, C hidden width of the text encoder

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sana_cli.config.published import complex_human_instruction
from sana_cli.models.gemma2 import Gemma2, KeyValues
from sana_cli.models.tokenizer import Tokenizer, foreign_tokenizer

MAX_PROMPT_TOKENS = 300  # BOS and 299 of the prompt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """Hidden states of a prompt's real tokens, (1, L, C), and what did not fit or was unknown."""

    embeds: Tensor
    truncated_tokens: int = 0
    unknown_words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Instruction:
    """Encoded instruction, without its last token, which merges with the prompt's first word."""

    token_ids: list[int]
    past: list[KeyValues]
    first_state: Tensor  # (1, 1, C): BOS sees only itself, so this is a constant


class Instructions(Protocol):
    """A store that keeps the encoded instruction from run to run."""

    def read_instruction(self, token_ids: list[int]) -> Instruction | None: ...

    def write_instruction(self, instruction: Instruction) -> None: ...


class FileEmbedding(nn.Module):
    """Token ids -> rows of a table that stays in its file: (..., L) -> (..., L, C), already scaled."""

    def __init__(self, rows_of: Callable[[list[int]], Tensor]) -> None:
        super().__init__()
        self.rows_of = rows_of

    def forward(self, ids: Tensor) -> Tensor:
        return self.rows_of(ids.flatten().tolist()).to(ids.device).unflatten(0, ids.shape)


class PromptEncoder:
    """A tokenizer and a Gemma-2 decoder trunk; holds the instruction's key-value cache."""

    def __init__(self, tokenizer: Tokenizer, model: Gemma2) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.kept: Instructions | None = None
        self._instruction: Instruction | None = None

    @torch.inference_mode()
    def encode(self, prompt: str, *, enhance: bool) -> EncodedPrompt:
        """Encode one prompt. `enhance` puts the complex human instruction before it.

        The text is lower-cased and stripped first, as the diffusers pipeline does.
        """
        text = prompt.lower().strip()
        unknown = self._unknown_words(text)
        if not enhance:
            ids = self._tokenize(text)
            kept = ids[:MAX_PROMPT_TOKENS]
            return EncodedPrompt(self._states(kept), len(ids) - len(kept), unknown)
        instruction = complex_human_instruction()
        instruction_ids = self._tokenize(instruction)
        ids = self._tokenize(instruction + text)
        limit = len(instruction_ids) + MAX_PROMPT_TOKENS - 2
        kept = ids[:limit]
        embeds = self._after_prefix(instruction_ids[:-1], kept)
        return EncodedPrompt(embeds, len(ids) - len(kept), unknown)

    @torch.inference_mode()
    def encode_negative(self, negative_prompt: str, *, beside_enhanced: bool) -> EncodedPrompt:
        """Encode the unconditional branch: never with the instruction; "" is BOS alone.

        `beside_enhanced`: the other branch has the instruction, which begins with BOS as well.
        """
        if beside_enhanced and not negative_prompt.strip():
            ids = self._tokenize(complex_human_instruction())[:-1]
            return EncodedPrompt(self._run_instruction(ids).first_state)
        return self.encode(negative_prompt, enhance=False)

    @torch.inference_mode()
    def last_state(self, text: str) -> Tensor:
        """Return the state (C,) after a whole text, used as it is; the next word follows from it."""
        return self._states(self._tokenize(text))[0, -1]

    def _tokenize(self, text: str) -> list[int]:
        """Token ids with BOS. SanaError for a tokenizer that does not belong to the model."""
        ids = self.tokenizer.encode(text)
        rows = self.model.config.vocab_size
        if ids and max(ids) >= rows:
            raise foreign_tokenizer(f"uses token {max(ids)}, the text encoder has {rows}")
        if not ids or ids[0] != self.tokenizer.bos_token_id:
            raise foreign_tokenizer("does not begin texts with BOS, as Gemma's does")
        return ids

    def _unknown_words(self, text: str) -> tuple[str, ...]:
        """Words that the tokenizer maps to its unknown token (never with Gemma's own)."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return ()
        words = dict.fromkeys(word.strip(".,;:!?\"'()") for word in text.split())
        return tuple(
            word
            for word in words
            if word and unknown in self.tokenizer.encode(word, add_special_tokens=False)
        )

    def _after_prefix(self, prefix_ids: list[int], ids: list[int]) -> Tensor:
        """Return the states of BOS and of everything after the prefix: (1, L, C)."""
        n = len(prefix_ids)
        if ids[:n] != prefix_ids or len(ids) == n:
            # A token merged across the boundary: no shared prefix, so the whole text runs.
            states = self._states(ids)
            return torch.cat([states[:, :1], states[:, n:]], dim=1)
        instruction = self._run_instruction(prefix_ids)
        rest = torch.tensor([ids[n:]], device=self._device)
        states, _ = self.model(rest, instruction.past)
        return torch.cat([instruction.first_state, states], dim=1)

    def _run_instruction(self, ids: list[int]) -> Instruction:
        if self._instruction is None or self._instruction.token_ids != ids:
            found = self.kept.read_instruction(ids) if self.kept else None
            if found is None:
                states, past = self.model(torch.tensor([ids], device=self._device), keep=True)
                found = Instruction(ids, past, states[:, :1].clone())
                if self.kept:
                    self.kept.write_instruction(found)
            self._instruction = self._on_device(found)
        return self._instruction

    def _on_device(self, instruction: Instruction) -> Instruction:
        past = [(k.to(self._device), v.to(self._device)) for k, v in instruction.past]
        first_state = instruction.first_state.to(self._device)
        return Instruction(instruction.token_ids, past, first_state)

    def _states(self, ids: list[int]) -> Tensor:
        """(1, L, C) after the final norm."""
        tokens = torch.tensor([ids], device=self._device)
        states: Tensor = self.model(tokens)[0]
        return states

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device
