"""Options of a `sana repl` session: they hold until they are changed, and are checked against the model."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.commands.repl_prompt_line import OptionError, split_options
from sana_cli.commands.repl_setters import CONTROL, DEFAULT, OFF, ON, SETTERS
from sana_cli.config.generation import GenerationOptions
from sana_cli.errors import SanaError, usage_error
from sana_cli.files import is_new_folder, local_path, no_folder
from sana_cli.images.file_names import without_fields
from sana_cli.images.formats import format_of
from sana_cli.request.output_paths import Target
from sana_cli.request.params import GenerationParams, resolve
from sana_cli.terminal.help import ALIASES

# Switches of `sana generate` may be typed as there, without a value.
_SWITCHED = {"/wildcards": ("/wildcards", ON), "/no-wildcards": ("/wildcards", OFF)}
_ALIASES = {f"/{alias[2:]}": f"/{name}" for name, aliases in ALIASES.items() for alias in aliases}


class SessionOptions:
    """The current options, and those that `default` restores."""

    def __init__(self, options: GenerationOptions, checkpoint: Checkpoint) -> None:
        """Raises SanaError for options that do not fit the model."""
        check(options, checkpoint)
        self.usual = self.now = options
        self.checkpoint = checkpoint

    def set(self, name: str, value: str) -> tuple[list[str], SanaError | None]:
        """Do what a command says. Returns the commands whose values have changed, and what is still wrong all the same.

        SanaError for a value that cannot be; nothing changes then.
        """
        changes = self._parsed(name, value, self.now)
        options = replace(self.now, **changes)
        still = None
        try:
            check(options, self.checkpoint)
        except SanaError as error:
            # Of several files that have gone, one after the other must be let go.
            if value not in (OFF, DEFAULT) or self.can_draw():
                raise
            still = error
        changed = {key for key in changes if changes[key] != getattr(self.now, key)}
        self.now = options
        return [n for n, s in SETTERS.items() if n == name or s.keys[0] in changed], still

    def for_line(self, line: str, *, last_seed: Callable[[], str]) -> tuple[str, GenerationOptions]:
        """Split a line into its prompt and the options after it, for this line only. Raises SanaError for others."""
        prompt, typed = split_options(line)
        options = self.now
        for said, value in typed:
            name = _ALIASES.get(said, said)
            if not value:
                name, value = _SWITCHED.get(name, (name, ""))
            if name not in SETTERS:
                known = ", ".join(f"--{n[1:]}" for n in SETTERS)
                raise OptionError(
                    f"--{name[1:]} is no option of a prompt here",
                    f"known: {known}; `sana generate` has all; for the words themselves, write them without dashes",
                )
            if not value:
                raise OptionError(
                    f"{said.replace('/', '--')} needs a value",
                    f"write it after the option: {prompt} --{name[1:]} {SETTERS[name].argument}",
                )
            meant = last_seed() if (name, value) == ("/seed", "last") else value
            options = replace(options, **self._parsed(name, meant, options))
        if typed:
            check(options, self.checkpoint)
        return prompt, options

    def can_draw(self) -> bool:
        """Check whether the options still fit the model and their files still exist."""
        try:
            check(self.now, self.checkpoint)
        except SanaError:
            return False
        return True

    def params(self) -> GenerationParams:
        """Resolve the parameters of a prompt; without any files if one of them is missing."""
        options = _any_prompt(self.now)
        try:
            return resolve(options, self.checkpoint)
        except SanaError:
            files: dict[str, Any] = dict.fromkeys(("image", "strength", "mask", "loras", *CONTROL))
            bare = replace(options, **files)
            return resolve(bare, self.checkpoint)

    def turned_to(self, typed: GenerationOptions, checkpoint: Checkpoint) -> "SessionOptions":
        """Keep the options for another model. Raises SanaError for options that do not fit it."""
        turned = SessionOptions(typed.over(self.now), checkpoint)
        turned.usual = typed.over(self.usual)
        return turned

    def _parsed(self, name: str, value: str, options: GenerationOptions) -> dict[str, Any]:
        """Parse a value into the options that it changes. Raises SanaError (usage) if it is invalid."""
        setter = SETTERS[name]
        if value == DEFAULT:
            return {key: getattr(self.usual, key) for key in setter.keys}
        try:
            return setter.parse(value, options)
        except ValueError as error:
            raise usage_error(f"{name} cannot be {value!r}", f"it {error}") from error


def check(options: GenerationOptions, checkpoint: Checkpoint) -> None:
    """Raise SanaError for options that no prompt can be drawn with."""
    params = resolve(_any_prompt(options), checkpoint)
    if params.loras:
        from sana_cli.loading.load import check_loras

        check_loras(checkpoint, params.loras)
    if options.output:
        output, target = local_path(options.output), Target.of(options.output)
        is_new = is_new_folder(output, target.is_folder)
        folder = without_fields(output)[0] if target.is_pattern else output
        is_made = is_new or (target.is_pattern and not os.path.lexists(folder))
        names_folder = target.is_pattern or format_of(output) is None
        if not folder.is_dir() and names_folder and not is_made:
            raise no_folder(folder)
        one_name = format_of(output) is not None and not output.is_dir() and not is_new
        if one_name and (not target.is_pattern or "{index" in options.output):
            raise usage_error(
                f"pictures of a session cannot all be called {options.output}",
                "name a folder, or a pattern with {slug} and {seed}",
            )


def _any_prompt(options: GenerationOptions) -> GenerationOptions:
    return replace(options, prompt="a prompt")
