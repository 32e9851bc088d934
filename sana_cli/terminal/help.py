"""Shape the commands' help: options in groups with examples, and suggestions for near misses.

Typer's own panels of help need Rich, 100 ms of it.
"""

from collections import deque
from copy import copy
from itertools import takewhile
from shlex import quote
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sana_cli.errors import usage_error
from sana_cli.terminal.help_groups import EXAMPLES, GROUPS, OTHERS, aligned
from sana_cli.terminal.usage import UsageError
from sana_cli.text import closest

_GENERATE, _MODELS, _REMOVE, _PULL = "sana generate", "sana models", "sana remove", "sana pull"
_CONFIG = "sana config"
# What other programs call it: within each group, their word and our command.
_MEANT: dict[str, dict[str, str]] = {
    "sana": {
        **dict.fromkeys(
            ("run", "draw", "txt2img", "text2img", "t2i", "image", "imagine", "create", "make", "paint"), _GENERATE,
        ),
        **dict.fromkeys(("img2img", "i2i", "inpaint", "edit"), "sana generate PROMPT --image PICTURE"),
        **dict.fromkeys(("list", "ls", "ps", "search"), _MODELS),
        **dict.fromkeys(("rm", "delete", "del", "uninstall"), _REMOVE),
        **dict.fromkeys(("download", "fetch", "get", "install", "add"), _PULL),
        **dict.fromkeys(("chat", "interactive", "shell", "console"), "sana repl"),
        **dict.fromkeys(("show", "inspect", "describe", "metadata"), "sana info"),
        **dict.fromkeys(("settings", "set", "configure", "preferences"), _CONFIG),
        **dict.fromkeys(("use", "switch"), "sana default"),
        **dict.fromkeys(("convert", "compress", "quantise"), "sana quantize"),
        **dict.fromkeys(("benchmark", "speed", "perf"), "sana bench"),
        **dict.fromkeys(("check", "diagnose", "status", "env"), "sana doctor"),
        "version": "sana --version",
    },
    _CONFIG: {
        **dict.fromkeys(("ls", "view", "print", "dump"), f"{_CONFIG} show"),
        **dict.fromkeys(("rm", "remove", "delete", "del", "reset"), f"{_CONFIG} unset"),
        **dict.fromkeys(("add", "change"), f"{_CONFIG} set"),
        **dict.fromkeys(("where", "file", "location"), f"{_CONFIG} path"),
    },
}  # fmt: skip

# What other programs call it: the option by its name in Python, and names that are read but not listed.
ALIASES = {
    "negative": ("--negative-prompt", "--neg"),
    "guidance": ("--cfg", "--cfg-scale", "--guidance-scale"),
    "steps": ("--num-inference-steps", "--num-steps", "--sampling-steps"),
    "count": ("--num-images", "--num-images-per-prompt", "--batch-count", "--number"),
    "scheduler": ("--sampler", "--sampling-method"),
    "image": ("--init-image", "--init-img"),
    "output": ("--out", "--outfile"),
    "force": ("--overwrite",),
}
_PROMPT = ("-p", "--prompt")
_LONGEST = 200  # characters of a command's first sentence, which Typer cuts at 45 where nobody gives a width
ALONE = {"--ray": "auto"}  # what an option means without a value


class Verbs(TyperGroup):
    """Commands of a group; knows the names that others give them, and a prompt that lacks its command."""

    def get_short_help_str(self, limit: int = _LONGEST) -> str:
        return str(super().get_short_help_str(limit))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        name = args[0].partition("=")[0] if args else ""
        is_own = not name.startswith("-") or name in _option_names(self.get_params(ctx))
        if not is_own and name in self._options_of_generate(ctx):
            words = " ".join(quote(arg) for arg in args if arg != "generate")
            raise usage_error(
                f"there is no option {name}",
                f"it belongs to `sana generate`: sana generate {words}",
            )
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _options_of_generate(self, ctx: Any) -> set[str]:
        generate = self.get_command(ctx, "generate")
        return {*_PROMPT, *_option_names(generate.get_params(ctx))} if generate else set()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, word) is None:
            path = str(ctx.command_path)
            if word.startswith("-"):
                raise usage_error(f"there is no option {word}", f"see `{path} --help`")
            raise usage_error(f"there is no command {word!r}", self._hint(ctx, path, args))
        return super().resolve_command(ctx, args)

    def _hint(self, ctx: Any, path: str, args: list[str]) -> str:
        word, names = args[0], self.list_commands(ctx)
        meant = _MEANT.get(path, {}).get(word.lower())
        begun = [f"{path} {name}" for name in names if len(word) > 1 and name.startswith(word)]
        near = closest(word.lower(), names)
        for likely in (meant, *begun[:1], near and f"{path} {near}"):
            if likely:
                return f"did you mean `{likely}`?"
        if path == _CONFIG and _is_setting(word.partition("=")[0]):
            rest = " ".join(quote(arg) for arg in (*word.split("=", 1), *args[1:]))
            return f"did you mean `{_CONFIG} {'set' if ' ' in rest else 'get'} {rest}`?"
        if path != "sana":
            return f"commands: {', '.join(names)}"
        listed = "" if " " in word else "`sana --help` lists the commands; "
        prompt = " ".join(takewhile(lambda arg: not arg.startswith("-"), args))
        return f"{listed}to draw it: sana generate {quote(prompt)}"


class Command(TyperCommand):
    """A command that also reads the option names of other programs, and whose mistakes name it."""

    def get_short_help_str(self, limit: int = _LONGEST) -> str:
        return str(super().get_short_help_str(limit))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = _with_dashes(args, _option_names(self.get_params(ctx)))
        try:
            rest: list[str] = super().parse_args(ctx, args)
        except UsageError as error:
            error.ctx = error.ctx or ctx
            raise
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        params = {str(param.name): param for param in self.get_params(ctx)}
        groups = GROUPS.get(str(self.name))
        if groups is None:
            super().format_options(ctx, formatter)
            return
        grouped = {name for names in groups.values() for name in names}
        others = tuple(name for name in params if name not in grouped)
        for title, names in (*groups.items(), (OTHERS, others)):
            found = [params[name].get_help_record(ctx) for name in names if name in params]
            if records := [record for record in found if record is not None]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        super().format_epilog(ctx, formatter)
        if examples := EXAMPLES.get(str(self.name)):
            with formatter.section("Examples"):
                formatter.write(aligned(examples))

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        for param in self.get_params(ctx):
            if names := _aliases(param):
                unlisted = copy(param)
                unlisted.opts, unlisted.secondary_opts = list(names), []
                unlisted.add_to_parser(parser, ctx)
        return parser


def _is_setting(word: str) -> bool:
    from sana_cli.config.user_settings import SETTINGS

    return word in SETTINGS


def _option_names(params: Any) -> set[str]:
    return {
        name
        for param in params
        if param.opts[0].startswith("-")
        for name in (*param.opts, *param.secondary_opts, *_aliases(param))
    }


def _with_dashes(args: list[str], known: set[str]) -> list[str]:
    """Write --guidance_scale as --guidance-scale: programs in Python name their options so."""
    options = list(takewhile(lambda arg: arg != "--", args))
    written = []
    for arg in options:
        name, equals, value = arg.partition("=")
        dashed = name.replace("_", "-")
        written.append(dashed + equals + value if dashed in known and name not in known else arg)
    return written + args[len(options) :]


def _aliases(param: Any) -> tuple[str, ...]:
    is_option = param.opts[0].startswith("-")
    return ALIASES.get(str(param.name), ()) if is_option else ()


class Grouped(Command):
    """`sana generate`: its prompt may come anywhere, by `-p`, or begin with a dash."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        args = _with_dashes(args, _option_names(self.get_params(ctx)))
        rest: list[str] = super().parse_args(ctx, self._prompt_last(ctx, args))
        if rest and not ctx.resilient_parsing:
            prompt = " ".join([*filter(None, [ctx.params.get("prompt")]), *rest])
            raise usage_error(
                f"unexpected argument {rest[0]!r}",
                f"put the whole prompt in quotes: sana generate {quote(prompt)}",
            )
        return rest

    def _prompt_last(self, ctx: Any, args: list[str]) -> list[str]:
        """Move a prompt that was given by `-p`, or is a sentence that begins with a dash, after `--`."""
        texts, numbers = _value_options(self.get_params(ctx))
        moved: list[str] = []
        others: list[str] = []
        words = deque(args)
        while words:
            word = words.popleft()
            name, equals, value = word.partition("=")
            if word == "--":
                break
            if word in _PROMPT:
                if not words:
                    raise usage_error(f"{word} needs a value", f'for example: {word} "a cat"')
                moved.append(words.popleft())
            elif name in _PROMPT and equals:
                moved.append(value)
            elif word in ALONE and (not words or words[0].startswith("-")):
                others += [word, ALONE[word]]
            elif word in texts or word in numbers:
                others += [word, *([words.popleft()] if words else [])]
            elif _is_sentence(word) and not {name, word[:2]} & texts:
                moved.append(word)
            else:
                others.append(word)
        rest = list(words)
        return [*others, "--", *moved, *rest] if moved or "--" in args else others


def _value_options(params: Any) -> tuple[set[str], set[str]]:
    """Names of options that take a text, and of those that take a number."""
    texts: set[str] = set()
    numbers: set[str] = set()
    for param in params:
        if param.opts[0].startswith("-") and not (param.is_flag or param.count):
            is_number = "int" in param.type.name or "float" in param.type.name
            (numbers if is_number else texts).update((*param.opts, *_aliases(param)))
    return texts, numbers


def _is_sentence(word: str) -> bool:
    return word.startswith("-") and any(c.isspace() for c in word)
