"""Lines of `sana repl`: from a terminal with history, editing and completion, or from a pipe."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from quant.plain_text import split_lines
from sana_cli.system.process import was_asked_to_end

if TYPE_CHECKING:
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History

_PROMPT = "sana> "


class Candidates(Protocol):
    """Completions of a command, or of its value, from what is typed already."""

    def __call__(self, line: str) -> Iterable[str]: ...


def piped_lines() -> Iterator[str]:
    """Lines of standard input as they arrive; what is not UTF-8 is refused as a prompt, not here."""
    for number, data in enumerate(sys.stdin.buffer):
        text = data.decode("utf-8", "surrogateescape")
        yield from split_lines(text.removeprefix("\ufeff") if number == 0 else text)


class Terminal:
    """Asks for one line after the other. Ctrl-C drops the line, as in a shell; Ctrl-D raises EOFError."""

    def __init__(self, candidates: Candidates, *, keep_history: bool) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        # Results alone go to stdout, as with every other command.
        shown_on = sys.stderr if sys.stderr.isatty() else sys.stdout
        self._session: PromptSession[str] = PromptSession(
            completer=_completer(candidates),
            complete_while_typing=False,
            history=_history() if keep_history else None,
            output=create_output(stdout=shown_on),
        )

    def line(self) -> str:
        usual = signal.signal(signal.SIGINT, self._interrupted)
        try:
            while True:  # with our handler all the time: a signal between two prompts ends nothing
                try:
                    return self._session.prompt(_PROMPT, handle_sigint=False)
                except KeyboardInterrupt:
                    if was_asked_to_end():
                        raise
        finally:
            signal.signal(signal.SIGINT, usual)

    def _interrupted(self, number: int, frame: object) -> None:
        """Handle an interruption by a signal, not the key: prompt_toolkit's own way ends in a
        traceback when two follow at once.
        """
        with suppress(RuntimeError):  # the line is over, and its loop closed
            if (loop := self._session.app.loop) is not None:
                loop.call_soon_threadsafe(self._drop_line)

    def _drop_line(self) -> None:
        line = self._session.app.future
        if line is not None and not line.done():
            self._session.app.exit(exception=KeyboardInterrupt)


def _completer(candidates: Candidates) -> Any:
    from prompt_toolkit.completion import Completer, Completion

    class _Completer(Completer):
        def get_completions(
            self, document: "Document", complete_event: "CompleteEvent"
        ) -> Iterator["Completion"]:
            line = document.text_before_cursor.lstrip()
            name, space, value = line.partition(" ")
            replaced = value.lstrip() if space else name
            for text in candidates(line):
                yield Completion(text, start_position=-len(replaced))

    return _Completer()


def _history() -> "History | None":
    """Open the history of typed lines, readable by its owner only; None if it cannot be kept."""
    from prompt_toolkit.history import FileHistory

    from quant.files import open_regular
    from sana_cli.config.places import history_file

    path = history_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        open_regular(path).close()  # a pipe would be waited for, a device be written to
        return FileHistory(str(path))
    return None
