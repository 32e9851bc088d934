"""The text stage of a run: prompts become embeddings, from the cache or by the text encoder.

The encoder, by far the largest part of a model, is in memory only while it works, unless it is told to stay.
"""

from collections.abc import Callable, Iterable

import torch

from quant.backends.dispatch import Backend
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.component_weights import prefetch
from sana_cli.loading.load import load_prompt_encoder
from sana_cli.models.text_encoder import EncodedPrompt, PromptEncoder
from sana_cli.pipeline.prompt_cache import PromptCache
from sana_cli.pipeline.verbs import EncodedPair, check_values, encode_prompt
from sana_cli.progress import Reporter, Stopwatch
from sana_cli.request.params import Settings
from sana_cli.system.torch_memory import release_memory

_LISTED_WORDS = 10
_PRUNED_AFTER = 34  # prompts of 2.8 MB, the most that one takes: half of a full cache
TextKey = tuple[str, str, bool, bool]
Texts = dict[TextKey, EncodedPair]


def text_key(settings: Settings) -> TextKey:
    """What decides the embeddings of both branches."""
    s = settings
    return s.prompt, s.negative_prompt, s.enhance, s.uses_two_branches


class TextStage:
    """Encodes the texts of one model's requests."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        precision: str,
        backend: Backend,
        use_cache: bool,
        reporter: Reporter,
        stopwatch: Stopwatch,
        accelerate: Callable[[torch.nn.Module], None],
    ) -> None:
        """`accelerate` is given the encoder, or each of its streamed layers, once it has its weights."""
        self.checkpoint, self.device, self.precision = checkpoint, device, precision
        self.backend, self.use_cache = backend, use_cache
        self.reporter, self.stopwatch, self.accelerate = reporter, stopwatch, accelerate
        self._encoder: PromptEncoder | None = None
        self._unpruned = _PRUNED_AFTER  # prompts that were kept since the cache was pruned

    def release(self) -> None:
        """Let the encoder go until it is needed again."""
        self._encoder = None

    def is_cached(self, settings: Settings) -> bool:
        """Whether a run with these settings needs no encoder."""
        cache = self._cache()
        return cache is not None and cache.holds(settings)

    def cached(self, wanted: Iterable[Settings]) -> Texts:
        """Those of the wanted texts that are in the cache."""
        cache = self._cache()
        if cache is None:
            return {}
        found = {text_key(settings): cache.read(settings) for settings in wanted}
        return {key: text for key, text in found.items() if text is not None}

    def encode(self, wanted: list[Settings], *, streamed: bool, stays: bool) -> Texts:
        """Encode texts with one encoder, its layers `streamed` from the file or not, and keep them in the cache.

        `stays` keeps the encoder for the next texts.
        """
        encoder = self._encoder or self._loaded(streamed=streamed)
        self._encoder = encoder if stays else None
        cache = encoder.kept = self._cache()
        texts: Texts = {}
        negatives: dict[tuple[str, bool], EncodedPrompt | None] = {}
        total = len(wanted) if len(wanted) > 1 else None
        with self.stopwatch.timed("text"), self.reporter.stage("text", total) as advance:
            for settings in wanted:
                key = settings.negative_prompt, settings.enhance
                known = negatives.get(key)
                if known is None and cache is not None:
                    known = cache.read_negative(settings)
                text = encode_prompt(encoder, settings, negative=known)
                texts[text_key(settings)], negatives[key] = text, text.negative
                check_values(text.positive.embeds, "text encoding")
                if total:
                    advance()
        del encoder
        release_memory(self.device)
        if cache is not None:
            for settings in wanted:
                cache.write(settings, texts[text_key(settings)])
            self._prune(cache, len(wanted))
        return texts

    def _prune(self, cache: PromptCache, written: int) -> None:
        """Once a run, and after as many more prompts as half of a full cache may be."""
        self._unpruned = self._unpruned + written
        if self._unpruned >= _PRUNED_AFTER:
            cache.prune()
            self._unpruned = 0

    def _loaded(self, *, streamed: bool) -> PromptEncoder:
        with self.stopwatch.timed("load"), self.reporter.stage("load text encoder"):
            encoder = load_prompt_encoder(
                self.checkpoint,
                dtype=self.precision,
                device=self.device,
                stream=self.accelerate if streamed else None,
            )
            self.accelerate(encoder.model)
        prefetch(self.checkpoint, "transformer")
        return encoder

    def tell_about(self, texts: Iterable[EncodedPair]) -> None:
        """Say what of the prompts the model did not read."""
        for text in texts:
            if text.positive.truncated_tokens:
                count = text.positive.truncated_tokens
                self.reporter.notice(
                    f"the prompt is too long: its last {count} tokens are not used"
                )
            if text.positive.unknown_words:
                self._tell_about_unknown(text.positive.unknown_words)

    def _tell_about_unknown(self, words: tuple[str, ...]) -> None:
        listed = ", ".join(words[:_LISTED_WORDS])
        more = f" and {len(words) - _LISTED_WORDS} more" if len(words) > _LISTED_WORDS else ""
        self.reporter.notice(f"{self.checkpoint.name} does not know these words: {listed}{more}")

    def _cache(self) -> PromptCache | None:
        if not self.use_cache:
            return None
        return PromptCache.of(
            self.checkpoint,
            precision=self.precision,
            device=self.device.type,
            backend=self.backend,
        )
