"""Show pictures to people: in the terminal, while they are drawn. The options are in `display_options`."""

import os
import sys
from typing import TYPE_CHECKING, NamedTuple, Self

from sana_cli.errors import SanaError, contradiction, usage_error
from sana_cli.text import note

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL.Image import Image

    from sana_cli.config.user_settings import UserSettings
    from sana_cli.pipeline.watching import Watching
    from sana_cli.terminal.image import Screen
    from sana_cli.terminal.plain_reporter import PlainReporter
    from sana_cli.terminal.progress_bars import ConsoleReporter

_NO_TERMINAL = "has no effect: this is no terminal that shows pictures"
_PREVIEW_SHARE = 0.5  # of the terminal's rows; bars are below it


class Seeing(NamedTuple):
    """The places where a call of `sana generate` shows pictures and previews."""

    screen: "Screen | None"  # the terminal, if anything is drawn in it
    shows: bool  # finished pictures, there
    previews: bool  # unfinished ones, there
    file: "Path | None"  # where the latest preview is kept
    every: int | None  # steps
    in_vain: tuple[str, ...]  # what to say about options that have no effect

    @classmethod
    def plan(
        cls, chosen: "UserSettings", *, show: bool | None, preview: bool | None, file: str | None,
        every: int | None, json: bool, quiet: bool | None, output: str | None, overwrite: bool,
        find: "Callable[[], Screen | None] | None" = None,
    ) -> Self:  # fmt: skip
        """Combine typed options (None: not typed) with settings. Raises SanaError (usage) for
        impossible values.

        `find` finds the terminal in another way than by asking it now.
        """
        for option, typed in (("--show", show), ("--preview", preview)):
            if typed and (json or quiet):
                raise contradiction(option, "--json" if json else "--quiet")
        if every is not None and every < 1:
            raise usage_error(
                f"cannot show a preview every {every} steps", "use --preview-every 1, or more"
            )
        path = _preview_path(file, output, overwrite=overwrite) if file else None
        wanted = chosen.show if show is None else show
        wants_previews = bool(chosen.preview if preview is None else preview)
        hushed = json or bool(quiet)
        hushed_by_setting = quiet is None and bool(chosen.quiet)
        shows = wanted is not False and not hushed and (bool(show) or not hushed_by_setting)
        previews = wants_previews and not hushed and (bool(preview) or not hushed_by_setting)
        screen = None
        if (shows or previews) and (find is not None or is_screen()):
            from sana_cli.terminal.image import find_screen

            screen = (find or find_screen)()
        if screen is None:
            shows = previews = False
        elif wanted is None:
            shows = shows and screen.graphics != "blocks"
        in_vain = []
        if show and not shows:
            in_vain.append(f"--show {_NO_TERMINAL}")
        if preview and not previews:
            in_vain.append(f"--preview {_NO_TERMINAL}; --preview-file FILE.png needs none")
        if every is not None and not previews and path is None:
            in_vain.append("--preview-every has no effect: there are no previews")
        return cls(
            screen=screen, shows=shows, previews=previews, file=path, every=every, in_vain=tuple(in_vain)
        )  # fmt: skip

    def show(self, path: "Path") -> None:
        """Show a finished picture, if that is wanted."""
        if self.screen is not None and self.shows:
            self.screen.show_file(path)


def is_screen() -> bool:
    """Check whether stdout is a terminal whose cursor can move."""
    return sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


class LivePreview:
    """The latest preview of a picture, in place of the one before."""

    def __init__(self, seeing: Seeing, reporter: "ConsoleReporter | PlainReporter") -> None:
        self._screen = seeing.screen if seeing.previews else None
        self._file, self._every, self._reporter = seeing.file, seeing.every, reporter
        self._rows = 0  # that it takes in the terminal
        self._notices = 0  # before it was drawn

    @property
    def watching(self) -> "Watching | None":
        """Return what a run needs to know about previews; None if nobody watches."""
        if self._screen is None and self._file is None:
            return None
        from sana_cli.pipeline.watching import Watching

        return Watching(show=self._show, every=self._every, file=self._file)

    def clear(self) -> None:
        """Make room for the finished picture. Only while bars are paused."""
        # What was said since then is below it, and would be erased.
        if self._screen is not None and self._rows and self._reporter.notices == self._notices:
            self._screen.erase(self._rows)
        self._rows = 0

    def _show(self, image: "Image", step: int, steps: int) -> None:
        if self._screen is not None:
            with self._reporter.paused():
                self.clear()
                self._rows = self._screen.show(image, share=_PREVIEW_SHARE)
                self._notices = self._reporter.notices
        if self._file is not None:
            from sana_cli.images.png import save_preview

            try:
                save_preview(image, self._file, step=step, steps=steps)
            except SanaError as error:  # no reason to lose the picture
                self._reporter.notice(f"no more previews in {self._file}: {error.message}")
                self._file = None


def _preview_path(file: str, output: str | None, *, overwrite: bool) -> "Path":
    """Return the path of previews: a free name, or that of an earlier preview."""
    from sana_cli.files import already_exists, check_writable, local_path, require_another
    from sana_cli.images.png import is_preview
    from sana_cli.request.output_paths import PNG_ONLY, require_picture

    path = local_path(file)
    option = "--preview-file"
    if path.is_dir():
        raise usage_error(
            f"{path} is a folder", f"name a file in it: {option} {path / 'so-far.png'}"
        )
    require_picture(path, file.endswith(("/", os.sep)), option, PNG_ONLY)
    check_writable(path, option)
    if output:
        require_another(path, local_path(output))
    if os.path.lexists(path) and not overwrite and not is_preview(path):
        error = already_exists(path)
        error.hint = "choose another --preview-file, or --force"
        raise error
    return path


def show_picture(path: "Path | None") -> bool:
    """Show a picture for `--show` of a command that makes none, or note why `--show` has no effect and return False."""
    from sana_cli.terminal.image import find_screen

    screen = find_screen() if path is not None else None
    if path is None:
        note("--show has no effect: it is for pictures")
    elif screen is None:
        note(f"--show {_NO_TERMINAL}")
    else:
        screen.show_file(path)
    return screen is not None
