"""A session as one HTML file without scripts or other files. No torch."""

from html import escape
from typing import Any

from sana_cli.bench.table import lines
from sana_cli.text import readable_memory

SHOWN = ("load", "text", "prepare", "denoise", "decode", "encode")
COLOURS = {
    "load": "#9aa5b1", "text": "#e0a526", "prepare": "#b5651d", "denoise": "#3a6ea5",
    "decode": "#5a9e6f", "encode": "#a05195",
}  # fmt: skip

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "pre{background:#f6f7f9;padding:1em;overflow-x:auto;font-size:13px}"
    ".bar{display:flex;height:1.6em;margin:.2em 0 1em}.bar span{display:block;min-width:1px}"
    ".key span{display:inline-block;width:1em;height:1em;margin:0 .3em 0 1em;vertical-align:-.15em}"
)


def html(document: dict[str, Any]) -> str:
    """Bars of the stages, then the same text as in a terminal."""
    title = f"sana bench: {document['model']}, {document['date']}"
    longest = max(c["stages"]["total"]["median"] for c in document["contenders"].values())
    bars = "".join(_bar(name, c, longest) for name, c in document["contenders"].items())
    key = "".join(f'<span style="background:{COLOURS[s]}"></span>{s}' for s in SHOWN)
    text = escape("\n".join(lines(document)))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p class=key>{key}</p>{bars}<pre>{text}</pre></html>\n"
    )


def _bar(name: str, contender: dict[str, Any], longest: float) -> str:
    stages = contender["stages"]
    parts = "".join(
        f'<span title="{s} {stages[s]["median"]:.4g} s" '
        f'style="background:{COLOURS[s]};width:{100 * stages[s]["median"] / longest:.2f}%"></span>'
        for s in SHOWN
        if s in stages
    )
    return f"<div>{escape(label(name, contender))}</div><div class=bar>{parts}</div>"


def label(name: str, contender: dict[str, Any]) -> str:
    """Return the text above a bar."""
    peak = contender["peak_device_bytes"] or contender["peak_host_bytes"]
    total = contender["stages"]["total"]["median"]
    return f"{name}: {total:.4g} s, peak memory {readable_memory(peak)}"
