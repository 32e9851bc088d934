"""Limits of a request: sizes, counts and times. For the user's own `sana` commands only the body's hold."""

from dataclasses import dataclass

from sana_cli.errors import require
from sana_cli.request.params import GenerationParams

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a server; a request beyond one is refused before any work."""

    queue: int = 64  # requests that wait
    body_bytes: int = 64 * MIB
    pixels: int = 4096 * 4096  # of one picture, drawn or uploaded
    steps: int = 200  # of one picture
    pictures: int = 16  # of one request
    picture_seconds: float = 600  # from the start of a picture to its last step
    body_seconds: float = 30  # from a request's head to the end of its body
    head_seconds: float = 10  # from a connection to the end of its first request's head
    drain_seconds: float = 30  # from SIGTERM to the end of the process

    def check(self, pictures: list[GenerationParams]) -> None:
        """SanaError (usage) for pictures beyond the limits."""
        count, first = len(pictures), pictures[0]
        require(
            count <= self.pictures,
            f"{count} pictures are too many for one request",
            f"ask for {self.pictures} or fewer",
        )
        require(
            first.steps <= self.steps,
            f"{first.steps} steps are too many for this server",
            f"use {self.steps} or fewer",
        )
        pixels = max(first.width * first.height, first.drawn_width * first.drawn_height)
        require(
            pixels <= self.pixels,
            f"a picture of {first.width}x{first.height} is too large for this server",
            f"use at most {self.pixels:,} pixels",
        )
