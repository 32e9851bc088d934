"""Draw one prompt with a running server: the counterpart of `GenerateSession` that imports next to nothing."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sana_cli.config.generation import GenerationOptions, uses_wildcards
from sana_cli.errors import SanaError
from sana_cli.remote.picture import RemoteComponents, RemoteModel, RemotePicture
from sana_cli.request.output_paths import Target, output_paths, tell_quality
from sana_cli.text import slug

if TYPE_CHECKING:
    from sana_cli.commands.grid import Grid
    from sana_cli.remote.artist import Artist
    from sana_cli.terminal.plain_reporter import PlainReporter
    from sana_cli.terminal.progress_bars import ConsoleReporter

DEMO_NOTICE = "this is the 20 MB demo model; real pictures: --model sana-0.6b (7.7 GB)"
_MOST = 10_000  # pictures of a call; more are refused


class _Named(NamedTuple):
    """A picture, as far as its name goes; the server looks at its size."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int = 0
    height: int = 0


class RemoteSession:
    """Draws the pictures of one prompt. `left` are those that a server did not draw."""

    def __init__(
        self, *, options: GenerationOptions, overwrite: bool, reporter: "ConsoleReporter | PlainReporter", artist: "Artist",
        grid: bool = False,
    ) -> None:  # fmt: skip
        seed = int.from_bytes(os.urandom(4)) if options.seed is None else options.seed
        self.options = replace(options, seed=seed)
        self.overwrite, self.reporter, self.artist = overwrite, reporter, artist
        self.checkpoint = RemoteModel(name=options.model_or_builtin)
        self.refusal: SanaError | None = None
        self.left: list[tuple[int, Path]] = []
        self.grid = _grid(self) if grid else None

    @property
    def components(self) -> RemoteComponents | None:
        """The parts that drew the last picture; None before the first."""
        return self.artist.last.components if self.artist.last else None

    def single(self, picture: object = None) -> Iterator[RemotePicture]:
        """Draw the pictures. SanaError; Unavailable where the rest is to be drawn here."""
        del picture  # one that is repeated is opened first, by another session
        with self.options.naming_source_of("output"), self.options.naming_settings():
            paths = self._planned()
            if self.options.model is None:
                self.artist.greetings.append(DEMO_NOTICE)
            for drawn in self.artist.draw(self.options, paths, overwrite=self.overwrite):
                self.left.pop(0)
                self.checkpoint.name = str(drawn.drawn_by["model"])
                self.checkpoint.revision = drawn.drawn_by["revision"]
                yield drawn

    def _planned(self) -> list[Path]:
        """Choose the files, as `GenerateSession` does: options that cannot be drawn are reported first."""
        options = self.options
        count = 1 if options.count is None else options.count
        first = options.seed or 0
        seeds = [first + i for i in range(min(max(count, 1), _MOST))]
        try:
            named = [
                _Named(_prompt_of(options, seed), options.negative_prompt or "", seed)
                for seed in seeds
            ]
            paths = output_paths(Target.of_options(options), named, overwrite=self.overwrite)
        except SanaError:
            self.artist.check(options)
            raise
        if self.grid is not None:  # its notices come after the server's refusal
            self.artist.check(options)
        tell_quality(options, paths, self.reporter)
        if self.grid is not None:
            self.grid.plan(len(paths), slug(named[0].prompt))
        self.left = list(zip(seeds, paths, strict=True))
        return paths


def _prompt_of(options: GenerationOptions, seed: int) -> str:
    if not uses_wildcards(options):
        return options.prompt or ""
    from sana_cli.request.wildcards import chosen_prompt

    return chosen_prompt(options, seed)[0]


def _grid(session: RemoteSession) -> "Grid":
    from sana_cli.commands.grid import Grid

    return Grid(session.options, overwrite=session.overwrite, reporter=session.reporter)
