"""The help of `sana generate`: its many options in groups, and examples. Typer's own panels need Rich, 100 ms of it."""

from typing import Any

from typer.core import TyperCommand

_GROUPS = {
    "What to draw": (
        "prompt", "from_", "prompts", "negative", "seed", "count", "image", "strength", "mask", "lora",
    ),
    "Size": ("size", "aspect", "width", "height", "bins"),
    "How": (
        "model", "steps", "guidance", "guidance_interval", "scheduler", "enhance", "safety", "cache",
    ),
    "Where it goes": ("output", "force", "grid", "show", "preview", "json", "quiet"),
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


class Grouped(TyperCommand):
    """A command whose help lists options by what they are about, in the order of the table above."""

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
