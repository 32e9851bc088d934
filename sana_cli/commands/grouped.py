"""What commands look like: the many options of `sana generate` in groups, and help for words that are near what is meant.

Typer's own panels of help need Rich, 100 ms of it.
"""

from shlex import join, quote
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sana_cli.errors import usage_error

_GROUPS = {
    "What to draw": (
        "prompt", "from_", "prompts", "negative", "seed", "count", "image", "strength", "mask", "lora",
    ),
    "Size": ("size", "aspect", "width", "height", "bins"),
    "How": (
        "model", "steps", "guidance", "guidance_interval", "scheduler", "enhance", "safety", "cache",
    ),
    "Where it goes": ("output", "force", "grid", "show", "preview", "preview_file", "preview_every", "json", "quiet"),
    "Speed and memory": (
        "device", "precision", "backend", "decode", "tile", "max_memory", "plan", "prompt_cache", "dry_run",
        "offline",
    ),
}  # fmt: skip
_OTHERS = "Others"

_EXAMPLES = (
    ('sana generate "a red fox" --model sana-0.6b --size 1024x768', ""),
    ('sana generate "a red fox" --count 2 --seed 7 -o fox.png', "fox-7.png, fox-8.png"),
    ("sana generate --from fox-7.png --steps 28", "the same, finer"),
    ("sana generate --prompts prompts.txt -o pictures/", "a prompt a line"),
    ('sana generate "a red fox" --dry-run', "what it takes in memory"),
)


_MEANT = {  # what other programs call it -> our command
    "run": "generate", "draw": "generate", "list": "models", "ls": "models", "rm": "remove", "download": "pull",
}  # fmt: skip


class Verbs(TyperGroup):
    """All commands; knows the names that others give them, and a prompt that lacks its command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        if not ctx.resilient_parsing and self.get_command(ctx, word) is None:
            if word in _MEANT:
                raise usage_error(
                    f"there is no command {word}", f"did you mean `sana {_MEANT[word]}`?"
                )
            if " " in word:
                raise usage_error(
                    f"there is no command {word!r}", f"to draw it: sana generate {quote(word)}"
                )
        return super().resolve_command(ctx, args)


class Grouped(TyperCommand):
    """`sana generate`: its help lists options by what they are about, in the order of the table above."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.allow_extra_args = True
        rest: list[str] = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            prompt = " ".join([*filter(None, [ctx.params.get("prompt")]), *rest])
            raise usage_error(
                f"{join(rest)} stands behind the prompt, which is one argument",
                f"texts of several words need quotes: sana generate {quote(prompt)}",
            )
        return rest

    def format_options(self, ctx: Any, formatter: Any) -> None:
        by_name = {str(param.name): param for param in self.get_params(ctx)}
        grouped = {name for names in _GROUPS.values() for name in names}
        others = tuple(name for name in by_name if name not in grouped)
        for title, names in (*_GROUPS.items(), (_OTHERS, others)):
            found = [by_name[name].get_help_record(ctx) for name in names if name in by_name]
            if records := [record for record in found if record is not None]:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        width = max(len(command) for command, meaning in _EXAMPLES if meaning)
        with formatter.section("Examples"):
            for command, meaning in _EXAMPLES:
                formatter.write(f"  {command.ljust(width)}  {meaning}".rstrip() + "\n")
