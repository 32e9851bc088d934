"""Plans: what is in memory when. The less stays there, the longer a picture takes. No torch."""

# H W pixels

from dataclasses import dataclass, replace
from typing import Literal

from sana_cli.config.choices import BLENDED_TILE, EXACT_TILE, SMALLEST_RETRY, DecodeMode

_TILES_PER_STRIP = 4  # a strip may hold as many pixels as so many tiles, at about the same cost


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """A way to decode; `tile` and `strip` in pixels."""

    mode: Literal["whole", "exact-tiles", "blended-tiles"] = "whole"
    tile: int = 0
    strip: int | None = None  # rows of the first stages at a time; None: all

    def __str__(self) -> str:
        return self.mode if self.mode == "whole" else f"{self.mode} {self.tile}"

    def smaller(self, height: int, width: int) -> "DecodePlan | None":
        """Return the next smaller plan to try when memory ran out; None if none is left."""
        if self.mode == "exact-tiles":
            tile = self.tile // 2 // 32 * 32
        else:
            tile = min(EXACT_TILE, max(height, width) // 2 // 32 * 32)
            tile = max(tile, SMALLEST_RETRY)
        return exact_tiles(tile, height, width) if tile >= SMALLEST_RETRY else None


WHOLE = DecodePlan()


def exact_tiles(tile: int, height: int, width: int) -> DecodePlan:
    """Exact tiles, with strips where the first stages would take more memory than a tile."""
    rows = _TILES_PER_STRIP * tile * tile // width // 32 * 32
    strip = max(32, rows)
    return DecodePlan(mode="exact-tiles", tile=tile, strip=strip if strip < height else None)


def encode_plan(decode: DecodePlan, height: int, width: int) -> DecodePlan:
    """The way to encode a picture that goes with a way to decode: encoding never blends."""
    if decode.mode != "blended-tiles":
        return decode
    return exact_tiles(decode.tile, height, width)


def decode_plans(mode: DecodeMode, tile: int | None, height: int, width: int) -> list[DecodePlan]:
    """List the ways to decode that --decode and --tile allow, the fastest first."""
    if mode == "blended-tiles":
        return [DecodePlan(mode=mode, tile=tile or BLENDED_TILE)]
    if mode == "exact-tiles":
        return [exact_tiles(tile or EXACT_TILE, height, width)]
    plans = [WHOLE]
    while mode == "auto" and (smaller := plans[-1].smaller(height, width)) is not None:
        plans.append(smaller)
    return plans


_MEASURES = {  # fields of `Plan`, in words
    "keeps_text": "with the text encoder",
    "streams_text": "text encoder streamed",
    "streams_blocks": "transformer streamed",
    "branches_apart": "guidance branches apart",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts that stay in memory. The text encoder goes before the transformer comes, unless all stay."""

    together: bool = True  # transformer and decoder stay from picture to picture
    keeps_text: bool = False  # the text encoder, too: other texts follow
    streams_text: bool = False  # the text encoder's layers are read when they run
    branches_apart: bool = False  # guidance: one branch after the other
    streams_blocks: bool = False  # the transformer's blocks are read when they run
    decode: DecodePlan = WHOLE

    def __str__(self) -> str:
        """The plan of --plan that it is nearest to, and what it does beyond that."""
        measures = self._measures()
        name, nearest = next(
            (name, plan)
            for name, plan in reversed(NAMED.items())
            if plan.together == self.together and plan._measures() <= measures
        )
        beyond = [words for words in _MEASURES.values() if words in measures - nearest._measures()]
        return ", ".join([name, *beyond, f"decode {self.decode}"])

    def _measures(self) -> set[str]:
        return {words for field, words in _MEASURES.items() if getattr(self, field)}

    def smaller_text(self) -> "Plan | None":
        """Return the next plan to try when encoding the text ran out of memory; None if none is left."""
        if self.keeps_text:
            return replace(self, keeps_text=False)
        return None if self.streams_text else replace(self, streams_text=True)

    def smaller_denoise(self, *, two_branches: bool) -> "Plan | None":
        """Return the next plan to try when denoising ran out of memory; None if none is left."""
        if self.keeps_text:
            return replace(self, keeps_text=False)
        if self.together:
            return replace(self, together=False)
        if two_branches and not self.branches_apart:
            return replace(self, branches_apart=True)
        return None if self.streams_blocks else replace(self, streams_blocks=True)


# What --plan names, the fastest first. `decode` is what the options and the memory leave.
NAMED = {
    "resident": Plan(),
    "stages": Plan(together=False),
    "branches": Plan(together=False, branches_apart=True),
    "streamed": Plan(
        together=False, branches_apart=True, streams_text=True, streams_blocks=True
    ),
}  # fmt: skip
