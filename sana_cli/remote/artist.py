"""Draw with a server what a command would draw here: the same files, notices, stages and previews. No torch."""

import base64
import io
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sana_cli.config.decoders import DECODERS, FULL
from sana_cli.config.generation import BUILTIN, GenerationOptions, uses_wildcards
from sana_cli.errors import Cancelled, ExitCode, SanaError
from sana_cli.files import in_utf8, local_path, new_file
from sana_cli.images.formats import format_of
from sana_cli.remote.choice import about_key, only_here
from sana_cli.remote.connection import Answer, Connection, ServerLost
from sana_cli.remote.picture import RemotePicture
from sana_cli.remote.wire import TooLarge, document_of

if TYPE_CHECKING:
    from sana_cli.pipeline.watching import Watching
    from sana_cli.progress import Reporter

_TURNED_AWAY = {
    403: "refused the request", 404: "does not have this model or decoder",
    413: "takes no files so large", 429: "is busy", 503: "draws nothing now",
}  # fmt: skip


class Unavailable(Exception):
    """A server does not draw this; the text says why. What it has drawn stays."""

    def __init__(self, reason: str, *, was_drawing: bool = False) -> None:
        super().__init__(reason)
        self.was_drawing = was_drawing


class Artist:
    """Draws with one server."""

    def __init__(self, server: "ServerChoice", reporter: "Reporter") -> None:
        self.server, self.reporter = server, reporter
        self.watching: Watching | None = None
        self.last: RemotePicture | None = None
        self._told: set[str] = set()  # notices that are not repeated
        self.greetings = [
            f"drawn by {server.name}"
        ]  # notices for when a request is taken, given once

    def hand_over(self, error: Unavailable) -> None:
        """Say that the rest is drawn here. SanaError where the user insists on a server that turned the request away."""
        if self.server.insists and not error.was_drawing:
            raise SanaError(
                f"{self.server.name} {error}", hint="draw here: --local", code=ExitCode.ENVIRONMENT
            ) from error
        self.reporter.notice(f"{self.server.name} {error}: drawn here")

    def check(self, options: GenerationOptions) -> None:
        """Let the server look at options. SanaError for what cannot be drawn; Unavailable."""
        try:
            self.server.connection().post("/v1/jobs/check", self._document(options))
        except TooLarge as error:
            raise Unavailable("takes no files so large") from error
        except ServerLost as error:
            raise Unavailable("does not answer") from error
        except Answer as answer:
            raise self._in_words(answer) from answer

    def draw(
        self, options: GenerationOptions, paths: Sequence[Path], *, overwrite: bool
    ) -> Iterator[RemotePicture]:
        """Draw one picture for each path: as many as the count of `options`, with seeds from theirs.

        SanaError as the command's own; Unavailable where the server does not draw it, or stops in the middle.
        """
        if uses_wildcards(options) and len(paths) > 1:  # each seed has a prompt of its own
            for seed, path in enumerate(paths, start=options.seed or 0):
                each = replace(options, seed=seed, count=None)
                yield from self.draw(each, [path], overwrite=overwrite)
            return
        watching = self.watching
        own: dict[str, Any] = {"stream": True, "keep": False, "previews": watching is not None}
        suffix = _suffix_of(paths)
        own["format"] = suffix
        if watching is not None and watching.every:
            own["preview_every"] = min(watching.every, 1000)
        stages, drawn = _Stages(self.reporter), 0
        try:
            happened = self.server.connection().events("/v1/jobs", self._document(options, **own))
            for name, data in happened:
                if name == "picture":
                    content = base64.b64decode(data[suffix])
                    yield self._saved(data, content, paths[data["index"]], overwrite=overwrite)
                    drawn += 1
                else:
                    self._happened(name, data, stages)
                if name == "done":
                    return
            raise ServerLost
        except TooLarge as error:
            raise Unavailable("takes no files so large") from error
        except Answer as answer:
            raise self._in_words(answer) from answer
        except (ServerLost, KeyError, TypeError, ValueError, IndexError) as error:
            if drawn == len(paths):
                return
            raise Unavailable("stopped in the middle", was_drawing=True) from error
        finally:
            stages.close()
            with suppress(UnboundLocalError):
                happened.close()

    def _document(self, options: GenerationOptions, **own: Any) -> dict[str, Any]:
        """The body of a request. Raises TooLarge; Unavailable for options that no request has.

        Lines of prompt files and pictures of sweeps have options of their own, so each picture is looked at.
        """
        if reason := only_here(options, checks=False):
            raise Unavailable(reason)
        prompt, template = options.prompt, options.template
        if uses_wildcards(options):
            from sana_cli.request.wildcards import chosen_prompt

            prompt, template = chosen_prompt(options, options.seed or 0)
        decoder = _place_of_decoder(options.decoder, own=not self.server.insists)
        chosen = replace(options, prompt=prompt, template=template, decoder=decoder)
        document = document_of(chosen, **own)
        if not self.server.insists:  # a name of an address is one of that server's
            document["model"] = _place_of(document["model"])
        return document

    def _happened(self, name: str, data: dict[str, Any], stages: "_Stages") -> None:
        if name == "notice" and data["message"] not in self._told:
            self._told.add(data["message"])
            self.reporter.notice(data["message"])
        # A busy server may begin before it says that a picture waits.
        if name in ("queued", "started"):
            while self.greetings:
                self.reporter.notice(self.greetings.pop(0))
        if name == "queued":
            # Needed at the end; they cost nothing while the server draws.
            import sana_cli.images.picture_index
            import sana_cli.pipeline.pass_count  # noqa: F401

            stages.wait(data["place"])
        elif name in ("started", "stage", "advance", "stage_done"):
            stages.take(name, data)
        elif name == "preview" and self.watching is not None:
            from PIL import Image

            with Image.open(io.BytesIO(base64.b64decode(data["png"])), formats=("PNG",)) as image:
                self.watching.show(image.copy(), data["step"], data["steps"])
        elif name == "cancelled":
            raise Cancelled("cancelled at the server")
        elif name == "failed":
            if data.get("server_ended"):
                raise Unavailable("ended in the middle", was_drawing=True)
            raise _error(data["error"])

    def _in_words(self, answer: Answer) -> Exception:
        """An answer as the command's own error, or as the reason why the server does not draw this."""
        if answer.status == 400 and answer.error.get("message"):
            return _error(answer.error)
        if answer.status == 401:
            return Unavailable(about_key(self.server.key))
        said = answer.error.get("message") if answer.status == 503 else None
        reason = _TURNED_AWAY.get(answer.status, f"answers with status {answer.status}")
        return Unavailable(f"{reason} ({said})" if said else reason)

    def _saved(
        self, data: dict[str, Any], content: bytes, path: Path, *, overwrite: bool
    ) -> RemotePicture:
        self.last = picture = RemotePicture.of(data, path)
        with new_file(path, overwrite=overwrite) as file:
            file.write(content)
        return picture


class ServerChoice:
    """The server that draws: this user's own, or that of an address."""

    def __init__(self, name: str, first: Connection, url: str = "", key: str = "") -> None:
        """`name` is what notices call it."""
        self.name, self._first, self._url, self.key = name, first, url, key
        self.insists = bool(url)
        self.checks_prompts = first.checks_prompts

    def connection(self) -> Connection:
        """A connection for one request. Raises ServerLost."""
        from sana_cli.remote.connection import own_server

        first, self._first = self._first, None  # type: ignore[assignment]
        if first is not None:
            return first
        found = Connection.to(self._url, self.key) if self._url else own_server()
        if found is None:
            raise ServerLost
        return found


class _Stages:
    """Bars of the server's stages."""

    def __init__(self, reporter: "Reporter") -> None:
        self._reporter = reporter
        self._open: dict[str, tuple[AbstractContextManager[Any], Any]] = {}

    def wait(self, place: int) -> None:
        self.close()
        self._begin(f"wait, place {place}", None)

    def take(self, name: str, data: dict[str, Any]) -> None:
        if name == "started":
            self.close()
        elif name == "stage":
            self._begin(data["title"], data["total"])
        elif name == "advance" and data["title"] in self._open:
            self._open[data["title"]][1]()
        elif name == "stage_done":
            self._end(data["title"])

    def _begin(self, title: str, total: int | None) -> None:
        self._end(title)
        stage = self._reporter.stage(title, total)
        self._open[title] = stage, stage.__enter__()

    def _end(self, title: str) -> None:
        if title in self._open:
            self._open.pop(title)[0].__exit__(None, None, None)

    def close(self) -> None:
        for title in list(self._open):
            self._end(title)


def _place_of(model: str) -> str:
    """The whole path of a model in a folder or file: the server may run elsewhere, where the name is another model's."""
    path = local_path(model)
    if model == BUILTIN or not path.exists():
        return model
    place = str(path.resolve())
    if in_utf8(place) != place:
        raise Unavailable(_TURNED_AWAY[404])
    return place


def _place_of_decoder(decoder: str | None, *, own: bool) -> str | None:
    """The whole path of a decoder in a folder or file, which only this user's `own` server opens. Raises Unavailable."""
    if decoder is not None and local_path(decoder).exists():
        decoder = str(local_path(decoder).resolve())
    if not own and decoder not in (None, FULL, *DECODERS):
        raise Unavailable("takes no other decoder than its own")
    return decoder


def _suffix_of(paths: Sequence[Path]) -> str:
    """The format that files of these names ask for, as a request has it. Raises Unavailable for several."""
    formats = {format_of(path) or "PNG" for path in paths}
    if len(formats) > 1:
        raise Unavailable("draws one format at a time")
    return {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}[formats.pop()]


def _error(said: dict[str, Any]) -> SanaError:
    try:
        code = ExitCode(said.get("code", 1))
    except ValueError:
        code = ExitCode.FAILURE
    return SanaError(str(said.get("message", "")), hint=str(said.get("hint", "")), code=code)
