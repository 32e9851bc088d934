"""Prompts become embeddings, from the cache or by the text encoder."""

# L text tokens, C width of the embeddings

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from sana_cli.models.text_encoder import EncodedPrompt, PromptEncoder
from sana_cli.pipeline.components import Components
from sana_cli.pipeline.prompt_cache import PromptCache
from sana_cli.pipeline.recovery import retrying
from sana_cli.pipeline.values import check_values
from sana_cli.request.params import GenerationParams

_LISTED_WORDS = 10
_PRUNED_AFTER = 34  # prompts of 2.8 MB, the most that one takes: half of a full cache
TextKey = tuple[str, str, bool, bool]


@dataclass(frozen=True, slots=True)
class EncodedPair:
    """The conditional and, when guidance has two branches, the unconditional text."""

    positive: EncodedPrompt
    negative: EncodedPrompt | None

    @property
    def branches(self) -> list[Tensor]:
        """Embeddings (1, L, C) in the order in which `denoise` batches them."""
        pair = (self.negative, self.positive)
        return [prompt.embeds for prompt in pair if prompt is not None]


Texts = dict[TextKey, EncodedPair]


def text_key(params: GenerationParams) -> TextKey:
    """Key of the embeddings of both branches: all parameters that change them."""
    p = params
    return p.prompt, p.negative_prompt, p.enhance, p.uses_two_branches


def encode_prompt(
    encoder: PromptEncoder, params: GenerationParams, *, negative: EncodedPrompt | None = None
) -> EncodedPair:
    """Both texts of a picture; the second only if guidance needs it and it is not given."""
    positive = encoder.encode(params.prompt, enhance=params.enhance)
    if params.uses_two_branches and negative is None:
        negative = encoder.encode_negative(params.negative_prompt, beside_enhanced=params.enhance)
    return EncodedPair(positive, negative if params.uses_two_branches else None)


def encode_texts(components: Components, wanted: Iterable[GenerationParams]) -> Texts:
    """Encode the texts of several pictures or read them from the cache; reports the parts that the model did not read.

    Raises BrokenValues.
    """
    distinct = {text_key(params): params for params in wanted}
    texts = _cached(components, distinct.values())
    missing = [params for key, params in distinct.items() if key not in texts]
    if missing:
        texts |= retrying(components, "text", lambda: _encode(components, missing))
    for text in texts.values():
        _report_unread(components, text)
    return texts


def _cached(components: Components, wanted: Iterable[GenerationParams]) -> Texts:
    cache = components.prompt_cache()
    if cache is None:
        return {}
    found = {text_key(params): cache.read(params) for params in wanted}
    return {key: text for key, text in found.items() if text is not None}


def _encode(components: Components, wanted: Sequence[GenerationParams]) -> Texts:
    """Encode texts with one encoder and keep them in the cache."""
    encoder = components.text_encoder()
    cache = encoder.kept = components.prompt_cache()
    texts: Texts = {}
    negatives: dict[tuple[str, bool], EncodedPrompt | None] = {}
    total = len(wanted) if len(wanted) > 1 else None
    stopwatch, reporter = components.stopwatch, components.reporter
    with stopwatch.timed("text"), reporter.stage("text", total) as advance:
        for params in wanted:
            key = params.negative_prompt, params.enhance
            known = negatives.get(key)
            if known is None and cache is not None:
                known = cache.read_negative(params)
            text = encode_prompt(encoder, params, negative=known)
            texts[text_key(params)], negatives[key] = text, text.negative
            check_values(text.positive.embeds, "text encoding")
            if total:
                advance()
    del encoder
    components.done_with_text()
    if cache is not None:
        for params in wanted:
            cache.write(params, texts[text_key(params)])
        _prune(components, cache, len(wanted))
    return texts


def _prune(components: Components, cache: PromptCache, written: int) -> None:
    """Once a pipeline, and after as many more prompts as half of a full cache may be."""
    components.unpruned += written
    if components.unpruned >= _PRUNED_AFTER:
        cache.prune()
        components.unpruned = 0


def _report_unread(components: Components, text: EncodedPair) -> None:
    notice = components.reporter.notice
    if count := text.positive.truncated_tokens:
        notice(f"the prompt is too long: its last {count} tokens are not used")
    if words := text.positive.unknown_words:
        listed = ", ".join(words[:_LISTED_WORDS])
        more = f" and {len(words) - _LISTED_WORDS} more" if len(words) > _LISTED_WORDS else ""
        notice(f"{components.checkpoint.name} does not know these words: {listed}{more}")
