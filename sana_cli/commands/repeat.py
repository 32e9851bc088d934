"""`--from`: a picture that is to be drawn again, the files that it was made from, and what may have changed since."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Self

from sana_cli import __version__
from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.decoder_files import OtherDecoder
from sana_cli.checkpoints.digest import model_digest
from sana_cli.checkpoints.find_decoder import find_decoder
from sana_cli.checkpoints.hed_file import find_hed
from sana_cli.checkpoints.lora_file import parse_lora
from sana_cli.checkpoints.model_names import kept_folder, place_of
from sana_cli.checkpoints.obtain_decoder import obtain_decoder
from sana_cli.checkpoints.obtaining import Access
from sana_cli.checkpoints.opening import complete_snapshot, open_checkpoint, open_published
from sana_cli.commands.remember import path_of
from sana_cli.config.generation import (
    BUILTIN,
    FIELDS,
    FILES,
    Field,
    GenerationOptions,
    uses_wildcards,
)
from sana_cli.config.variants import find_variant
from sana_cli.errors import ExitCode, SanaError, usage_error
from sana_cli.files import local_path
from sana_cli.request.options import options_of_picture
from sana_cli.request.params import resolve
from sana_cli.terminal.confirm import approval
from sana_cli.text import shortened

if TYPE_CHECKING:
    from sana_cli.terminal.progress_bars import ConsoleReporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture to draw again, with the settings in its file."""

    name: str
    settings: dict[str, Any]  # empty where another program drew it
    options: GenerationOptions
    foreign: str = ""  # a notice on how far another program's settings go

    @classmethod
    def of(cls, name: str) -> Self:
        """Read a picture's settings, or another program's. Raises SanaError for a file without any."""
        from sana_cli.images.picture_file import SHEET_KEY, read_foreign_settings, read_settings
        from sana_cli.request.foreign_options import options_of_foreign

        if (remembered := path_of(name)) is not None:
            name = str(remembered)
        path = local_path(name)
        if foreign := read_foreign_settings(path):
            found = options_of_foreign(foreign, name)
            return cls(name=name, settings={}, options=found.options, foreign=found.notice)
        settings = read_settings(path)
        if SHEET_KEY in settings:
            raise usage_error(
                f"{name} is a sheet of several pictures",
                "repeat one of them; `sana info` lists what it shows",
            )
        return cls(name=name, settings=settings, options=options_of_picture(settings, name))

    def changed_by(self, typed: GenerationOptions) -> GenerationOptions:
        """Combine the typed options with those that repeat the picture. Raises SanaError if files have changed."""
        left: dict[str, Any] = dict.fromkeys(self._left_away(typed))
        if typed.prompt is None and uses_wildcards(typed) and self.options.template:
            left["prompt"] = self.options.template  # choices are made again
        if typed.prompt is not None or "prompt" in left:
            left |= {"template": None, "wildcards": None}
        return self._with_files(typed.over(replace(self.options, **left)))

    @contextmanager
    def named_in_errors(self, typed: GenerationOptions) -> Iterator[None]:
        """Add the file and its key to an error in the block about an option that only the picture says."""
        try:
            yield
        except SanaError as error:
            if error.code == ExitCode.USAGE and self.name not in error.message:
                for field in FIELDS.values():
                    said, own = getattr(typed, field.name), getattr(self.options, field.name)
                    if said is None and own is not None and _is_about(error, field.word):
                        error.message += f" ({self._shown(field)} is carried by {self.name})"
                        if error.hint.startswith("omit "):  # nobody typed it
                            flag = "--size WxH" if field.name == "bins" else f"--{field.word}"
                            error.hint = f"give it yourself: {flag}"
            raise

    def _shown(self, field: Field) -> str:
        key = "drawn_size" if field.name == "bins" else field.option.picture or field.word
        value = self.settings.get(key, getattr(self.options, field.name))
        return f"{key} = {shortened(repr(value), 60)}"

    def _left_away(self, typed: GenerationOptions) -> list[str]:
        """List options that a new original drops: a mask, and the strength used with it, fit their own original only."""
        if typed.image is None or self.options.mask is None:
            return []
        path = local_path(typed.image)
        if path.is_file() and _sha256(path) == self.settings.get("image_digest"):
            return []
        return [key for key in ("mask", "strength") if getattr(typed, key) is None]

    def _with_files(self, options: GenerationOptions) -> GenerationOptions:
        """Find the files that the picture was made from: at their recorded paths, then in the picture's folder."""
        found: dict[str, Any] = {}
        for kind in FILES:
            name = getattr(options, kind)
            if name is not None and options.sources.get(kind) == self.name:
                digest = self.settings.get(f"{kind}_digest")
                found[kind] = str(_same_file(name, digest, f"--{kind}", self.name))
        if options.loras and options.sources.get("loras") == self.name:
            digests = self.settings.get("lora_digests")
            if not isinstance(digests, list) or len(digests) != len(options.loras):
                digests = [None] * len(options.loras)
            found["loras"] = tuple(
                f"{_same_file(path, digest, '--lora', self.name)}:{scale!r}"
                for (path, scale), digest in zip(
                    map(parse_lora, options.loras), digests, strict=True
                )
            )
        return replace(options, **found)

    def tell_differences(
        self,
        typed: GenerationOptions,
        checkpoint: Checkpoint,
        reporter: "ConsoleReporter",
        *,
        hed: str | None,
    ) -> None:
        """Say what may keep the new picture from being the same; `hed` is the file of HED that is in use."""
        if self.foreign:
            reporter.notice(self.foreign)
            return
        options = typed.over(self.options)
        if left := self._left_away(typed):
            reporter.notice(
                f"{self.name} was made from another picture than {typed.image}: drawn without its "
                + " and ".join(left)
            )
        now = {
            "model": checkpoint.name,
            "revision": checkpoint.revision or "",
            "flow_shift": checkpoint.defaults.flow_shift,
            "version": __version__,
        }
        for key, value in now.items():
            before = self.settings.get(key, value)
            if before != value:
                reporter.notice(
                    f"{self.name} was drawn with {key} {before or 'unknown'}, this is {value or 'unknown'}; "
                    "the pictures may differ"
                )
        if self.options.decoder == options.decoder:
            decoder = find_decoder(options.decoder, checkpoint)
            if message := other_decoder(self.settings, decoder, self.name):
                reporter.notice(message)
        drawn_by = self.settings.get("control_hed_digest")
        if drawn_by is not None and find_hed(hed).digest != drawn_by:
            reporter.notice(
                f"the lines of {self.name} were found by another HED network; the pictures will differ"
            )
        if self.settings.get("model") == checkpoint.name:
            tell_another_model(self.settings, checkpoint, self.name, reporter)

    def tell_other_rounding(self, now: dict[str, str], reporter: "ConsoleReporter") -> None:
        """Report a picture that was drawn under another plan, which rounds differently."""
        if self.foreign:
            return
        keys = ("branches", "decode")
        if now != {key: self.settings[key] for key in keys if key in self.settings}:
            reporter.notice(
                f"{self.name} was drawn under another memory plan, which rounds differently: "
                "pixels may differ by 1 of 255"
            )


def tell_another_model(
    settings: dict[str, Any], checkpoint: Checkpoint, picture: str, reporter: "ConsoleReporter"
) -> None:
    """Report a model that has the name of the picture's model but other content."""
    digest = model_digest(checkpoint)
    if digest and settings.get("model_digest", digest) != digest:
        reporter.notice(
            f"{picture} was drawn by another model of the name {checkpoint.name}: its files are not those that "
            "are here; the pictures will differ"
        )


def other_decoder(settings: dict[str, Any], decoder: OtherDecoder | None, picture: str) -> str:
    """Say that a decoder has the name of the picture's but other content; "" where it has not."""
    digest = decoder.digest if decoder else None
    if digest is None or settings.get("decoder_digest", digest) == digest:
        return ""
    assert decoder is not None
    return (
        f"{picture} was drawn by another decoder of the name {decoder.name}: its files are not those that "
        "are here; the pictures will differ"
    )


def _is_about(error: SanaError, option: str) -> bool:
    """Return whether an error begins with an option's name, holds it as it is typed, or advises to omit it."""
    flag = rf"{re.escape('--' + option.replace('_', '-'))}(?![\w-])"
    return any((
        re.search(rf"^{re.escape(option)}\b|{flag}", error.message),
        re.match(f"omit {flag}", error.hint),
    ))  # fmt: skip


def _sha256(path: Path) -> str:
    from quant.manifest import sha256_of

    return sha256_of(path)


def _same_file(name: str, digest: object, option: str, picture: str) -> Path:
    hint = f"put it there, or name another one: {option} FILE"
    asked = local_path(name)
    here = local_path(picture).parent
    last = PureWindowsPath(name).name  # the picture may come from Windows
    places = [p for p in (asked, here / asked.name, here / last) if p.is_file()]
    if not places:
        raise usage_error(f"{picture} was made from {name}, which is not there", hint)
    same = [path for path in places if _sha256(path) == digest]
    if not same:
        raise usage_error(f"{picture} was made from {name}, which has changed since", hint)
    return same[0]


def open_model(
    options: GenerationOptions,
    picture: Picture | None,
    *,
    offline: bool,
    yes: bool,
    reporter: "ConsoleReporter",
    planning: bool = False,
    default: str | None = None,
) -> Checkpoint:
    """Open the requested model; errors say who named it when nobody typed it.

    `default` is the model of the user's settings, which a picture may name by its last name. `yes` answers the question before a large download; `planning` as for `open_checkpoint`.
    """
    repeated = picture is not None and options.sources.get("model") == picture.name
    name = options.model_or_builtin
    if repeated:
        name = place_of(name, default)
    if not planning:
        _refuse_before_download(options, name)
    try:
        with options.naming_source_of("model"):
            access = Access(
                offline=offline,
                progress=reporter.download,
                approve=approval(reporter, yes=yes),
                planning=planning,
                named_by=picture.name if picture is not None and repeated else "",
            )
            checkpoint = open_checkpoint(name, access)
    except SanaError as error:
        if repeated and error.code == ExitCode.USAGE:
            error.hint = "pictures store a model's name, not its place: give --model FOLDER"
        elif error.code == ExitCode.ENVIRONMENT and "model" in options.sources and name != BUILTIN:
            error.hint += "; or use the demo model: --model builtin"
        raise
    if checkpoint.absent is None:
        with options.naming_source_of("decoder"):
            obtain_decoder(options.decoder, checkpoint, access)
    return checkpoint


def _refuse_before_download(options: GenerationOptions, name: str) -> None:
    """Raise SanaError for what cannot be drawn, such as a missing file, before a published model is downloaded for it."""
    variant = find_variant(name)
    if variant is None or options.prompt is None:
        return
    here = local_path(name).exists() or kept_folder(name) is not None
    if here or complete_snapshot(name, variant) is not None:
        return
    with options.naming_settings():
        resolve(options, open_published(variant))
