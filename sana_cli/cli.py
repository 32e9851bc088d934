"""The `sana` command: its own options, and the one place where errors become text.

Nothing heavy is imported here; commands are imported when they are called, and import what they need when they run.
"""

import itertools
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress

from sana_cli.errors import ExitCode, SanaError, explained, usage_error
from sana_cli.system.ending import end_with
from sana_cli.system.process import ending_by_signals, exit_code, flush_streams, set_up_streams
from sana_cli.system.redact import without_secrets
from sana_cli.terminal.report import tell_error
from sana_cli.text import print_json, say, show_traceback

_GLOBAL_OPTIONS = ("--debug", "--verbose", "-v", "-vv")


def __getattr__(name: str) -> object:
    if name == "app":  # for documents and tests
        from sana_cli.commands.tree import make_app

        return make_app()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "app"]


def main(argv: Sequence[str] | None = None, *, prepare: Callable[[], None] = lambda: None) -> int:
    """Run `sana` with the given arguments and return its exit code; never raises for bad input.

    `prepare` is called before the first command that may import torch, not where a server draws.
    """
    arguments = _global_options_first(sys.argv[1:] if argv is None else argv)
    return at_the_edge(arguments, lambda: _run(arguments, prepare))


def at_the_edge(arguments: Sequence[str], work: Callable[[], int]) -> int:
    """Do the work of a command line and return its exit code; errors become text, bugs keep their traceback."""
    json = _wants_json(arguments)
    with ending_by_signals():
        try:
            _require_working_folder()
            return work()
        except KeyboardInterrupt:
            return _fail("interrupted", "", ExitCode.INTERRUPTED, json=json)
        except BrokenPipeError:
            return ExitCode.FAILURE  # the reader of stdout left, as `head` does: nobody listens
        except BaseException as error:
            known = _in_words(error)
            if known is None:
                raise
            if "--debug" in itertools.takewhile(lambda a: a.startswith("-"), arguments):
                # the message and the exit code stay the same
                show_traceback(type(error), error, error.__traceback__)
            return _fail(known.message, known.hint, known.code, json=json)


def _in_words(error: BaseException) -> SanaError | None:
    """Return an error in the user's words; None for a bug, which keeps its traceback."""
    if isinstance(error, SanaError):
        return error
    if "typer" in sys.modules and (known := _said_by_typer(error)) is not None:
        return known
    if isinstance(error, ValueError) and _is_from(error, "tqdm"):  # torch imports it, too
        from sana_cli.checkpoints.hub_environment import blame

        return blame(error)
    return explained(error)


def _said_by_typer(error: BaseException) -> SanaError | None:
    """Return an error of Typer's in the user's words; None for any other."""
    import typer

    from sana_cli.terminal.usage import UsageError, in_our_words

    if isinstance(error, typer.Abort):
        return SanaError("interrupted", code=ExitCode.INTERRUPTED)
    return usage_error(*in_our_words(error)) if isinstance(error, UsageError) else None


def _is_from(error: BaseException, package: str) -> bool:
    """Return whether a package, by its name, raised an error itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
    return module.partition(".")[0] == package


def _wants_json(arguments: Sequence[str]) -> bool:
    """Return whether a program reads stdout. `sana bench --json FILE` writes a file, and its stdout
    is for people, unless FILE is `-`.
    """
    words = list(itertools.takewhile(lambda word: word != "--", arguments))
    if "bench" in itertools.takewhile(lambda word: not word.startswith("--json"), words):
        return "--json=-" in words or ("--json", "-") in itertools.pairwise(words)
    return "--json" in words


def _global_options_first(argv: Sequence[str]) -> list[str]:
    """Move global options to the front: people add them at the end of a command that just failed."""
    end = argv.index("--") if "--" in argv else len(argv)
    anywhere = [word for word in argv[:end] if word in _GLOBAL_OPTIONS]
    return [*anywhere, *(word for word in argv[:end] if word not in _GLOBAL_OPTIONS), *argv[end:]]


def _run(arguments: list[str], prepare: Callable[[], None]) -> int:
    if arguments[:1] == ["generate"]:
        from sana_cli.commands.plain_generate import drawn_plainly

        if drawn_plainly(arguments, prepare):
            return ExitCode.OK
    prepare()
    if not arguments and "_SANA_COMPLETE" not in os.environ:  # a shell that asks types nothing
        from sana_cli.terminal.help_groups import FIRST_STEPS, aligned

        say(*(line.strip() for line in aligned(FIRST_STEPS).splitlines()))
        return ExitCode.OK
    from sana_cli.commands.tree import built

    result = built().main(arguments, prog_name="sana", standalone_mode=False)
    if result == ExitCode.INTERRUPTED:
        raise KeyboardInterrupt  # Typer turned it into a silent exit code
    return result if isinstance(result, int) else ExitCode.OK


def _require_working_folder() -> None:
    """Libraries end the process without a word that helps when it is gone."""
    try:
        os.getcwd()
    except OSError as error:
        raise SanaError(
            "the working folder is gone",
            hint="change into one that exists",
            code=ExitCode.ENVIRONMENT,
        ) from error


def _fail(message: str, hint: str, code: ExitCode, *, json: bool) -> int:
    number = exit_code(code)
    message, hint = without_secrets(message), without_secrets(hint)
    tell_error(message, hint)
    if json:
        with suppress(OSError):  # stdout may be what cannot be written
            print_json({"error": {"code": number, "message": message, "hint": hint}})
    return number


def _prepare_to_draw() -> None:
    """Set up this process for torch, which reads all of it once. A tenth of the time in which a server is asked."""
    from sana_cli.system.allocator import set_up_allocator
    from sana_cli.system.cpu import limit_spinning

    set_up_allocator()
    limit_spinning()


def run() -> None:
    """The console script."""
    set_up_streams()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # of libraries, about their own ways: stderr is ours
    sys.excepthook = show_traceback
    code = main(prepare=_prepare_to_draw)
    if not flush_streams() and code == ExitCode.OK:
        code = ExitCode.ENVIRONMENT
    if code > 128:
        # An interrupt inside a C import makes CPython end itself by the signal, whatever we say.
        os._exit(code)
    end_with(code)
    sys.exit(code)
