"""Notices before a picture is drawn: options without effect, sizes and words that draw badly."""

from collections.abc import Iterator

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.pipeline.guidance import without_effect
from sana_cli.request import control, init_image, upscale
from sana_cli.request.params import GenerationParams
from sana_cli.text import with_article


def notices_for(params: GenerationParams, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield a line for each notice."""
    native, first = checkpoint.defaults.native_size, params.passes[0]
    drawn = (first.drawn_width, first.drawn_height)
    if checkpoint.own.vocabulary and (native, native) != drawn:
        yield f"{checkpoint.name} was trained at {native}x{native}; other sizes draw worse"
    elif checkpoint.own.vocabulary and len(params.passes) > 1:
        yield f"{checkpoint.name} was trained at {native}x{native}: --upscale may spoil what it redraws"
    if not checkpoint.own.knows_any_thing(params.prompt):
        yield (
            f'{checkpoint.name} knows none of the things in this prompt: try "a cat" (`sana info builtin` '
            "lists what it knows), or a real model: --model sana-0.6b"
        )
    if in_vain := checkpoint.own.colours_in_vain(params.prompt):
        better = ", ".join(f'"{with_article(thing)}"' for _, thing in in_vain)
        yield f"{checkpoint.name} draws things without a colour word best: try {better}"
    if first.init_image is not None:
        yield from init_image.notices(first.init_image, first.width, first.height)
    if params.upscale is not None:
        yield from upscale.notices(params.upscale, params.drawn_width, params.drawn_height)
    if params.control is not None:
        yield from control.notices(params.control, params.drawn_width, params.drawn_height)
    if params.negative_prompt and not params.uses_two_branches:
        yield "--negative has no effect: guidance is 1 or less, or built in (Sprint)"
    yield from without_effect(first, blocks=checkpoint.transformer.num_layers)
