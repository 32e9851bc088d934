"""A step of the engine with caches of the first block (`--cache`): by two graphs, of which the second is left out where nothing changed.

As `SanaTransformer2D` does it: each context decides for itself, and the other blocks run for those that hold no usable result.
"""

# B batch of all contexts, N tokens of a picture, M = B * N, D width

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sana_cli.accelerate.cuda.transformer import Part, StepKind
from sana_cli.models.block_cache import FirstBlockCache


def by_parts(
    kind: StepKind,
    batches: Sequence[int],
    caches: Sequence[FirstBlockCache],
    run: Callable[..., tuple[Tensor, ...]],
    finish: Callable[[Tensor], Tensor],
) -> Tensor:
    """The velocity (B, C, h, w) of contexts with these batches, one cache each.

    `run(kind, *tensors)` runs a part for the contexts `kind.of`, if it names any; `finish` makes a velocity of the stream
    (M, D) after the last block.
    """
    first = replace(kind, part=Part.FIRST, control=None)  # a drawing acts from the second block on
    stream, added = run(first)
    streams, addeds = (_by_context(tensor, batches) for tensor in (stream, added))
    rests = [cache.rest_for(mine) for cache, mine in zip(caches, addeds, strict=True)]
    missing = [i for i, rest in enumerate(rests) if rest is None]
    found: list[Tensor] = [
        mine.new_empty(0) if rest is None else finish((mine + rest).flatten(0, 1))
        for mine, rest in zip(streams, rests, strict=True)
    ]
    if missing:
        some = tuple(missing) if len(missing) < len(batches) else ()  # all: no graph of its own
        x = stream if not some else torch.cat([streams[i] for i in missing]).flatten(0, 1)
        done, velocity = run(replace(kind, part=Part.REST, of=some), x)
        theirs = [batches[i] for i in missing]
        parts = zip(missing, _by_context(done, theirs), velocity.split(theirs), strict=True)
        for i, after, part in parts:
            caches[i].keep(addeds[i], after - streams[i])
            found[i] = part
    return torch.cat(found)


def _by_context(tokens: Tensor, batches: Sequence[int]) -> tuple[Tensor, ...]:
    """(M, D) -> (B of a context, N, D) of each."""
    return tokens.unflatten(0, (sum(batches), -1)).split(list(batches))
