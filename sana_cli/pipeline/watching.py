"""A viewer of pictures while they are drawn. No torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """A viewer of a picture while it is drawn."""

    show: Callable[
        ["Image.Image", int, int], object
    ]  # the preview, after which step, of how many; False cancels
    every: int | None  # steps; None: a tenth of them
    file: Path | None = None  # where `show` writes it, too

    def wants(self, step: int, steps: int) -> bool:
        """Check whether to show the estimate after `step`, counted from 1; the last step is always shown."""
        return step == steps or step % (self.every or max(1, steps // 10)) == 0
