"""Texts of `sana repl`: its list of commands, the value of each setting, messages in its own words."""

import re
from collections.abc import Iterator

from sana_cli.commands.repl_setters import DEFAULT, OFF, ON, SETTERS
from sana_cli.config.generation import FIELDS, GenerationOptions, uses_wildcards
from sana_cli.request.params import GenerationParams
from sana_cli.text import columns

SWITCHES = {
    "/show": "show pictures in the terminal",
    "/preview": "also show them while they are drawn",
}
OTHERS = {
    "/again": ("", "draw the last prompt again, with what is set now"),
    "/info": ("", "settings of the last picture"),
    "/open": ("", "open the last picture in your viewer"),
    "/model": ("NAME", "draw with another model; without NAME: show which one"),
    "/settings": ("", "show everything that is set"),
    "/help": ("", "show this list"),
    "/quit": ("", "leave, as Ctrl-D does"),
}
COMMANDS = (*SETTERS, *SWITCHES, *OTHERS)


def in_commands(text: str) -> str:
    """Rewrite a message for a session, with `/commands` in place of options."""
    known = re.sub(
        r"--([a-z]+)\b(?!-)", lambda m: f"/{m[1]}" if f"/{m[1]}" in COMMANDS else m[0], text
    )
    return known.replace("--strength", "strength")


def in_words(name: str, options: GenerationOptions, settings: GenerationParams) -> str:
    init = settings.init_image
    match name:
        case "/seed":
            return "a new one each time" if options.seed is None else str(options.seed)
        case "/count":
            return str(options.count or 1)
        case "/size":
            return f"{settings.width}x{settings.height}"
        case "/guidance":
            return f"{settings.guidance_scale:g}"
        case "/negative":
            return settings.negative_prompt or OFF
        case "/image":
            told = f"{init.image.name} at strength {init.strength:g}" if init else None
            return told or options.image or OFF
        case "/mask":
            return options.mask or OFF
        case "/control":
            return " ".join(filter(None, (options.control, options.control_type))) or OFF
        case "/wildcards":
            return ON if uses_wildcards(options) else OFF
        case "/lora":
            return ", ".join(map(str, settings.loras or options.loras or ())) or OFF
        case "/output":
            return options.output or "the working folder"
        case "/format" | "/quality" | "/upscale_strength":  # not of what is drawn, or not always
            field = FIELDS[name[1:]]
            return str(getattr(options, field.name) or field.option.unset)
        case _:
            value = getattr(settings, name[1:])
            if value is None:
                return FIELDS[name[1:]].option.unset
            return f"{value:g}" if isinstance(value, float) else str(value)


def help_lines() -> Iterator[str]:
    yield "Type what to draw. A value that is set holds until it is changed:"
    rows = [(f"  {name} {s.argument}", s.help) for name, s in SETTERS.items()]
    rows += [(f"  {name} {ON}|{OFF}", text) for name, text in SWITCHES.items()]
    rows += [(f"  {name} {argument}", text) for name, (argument, text) in OTHERS.items()]
    yield from columns(rows)
    yield f"Without a value a command shows what is set; {DEFAULT} resets it."
    yield "Options after a prompt hold for that line only: a cat --seed 4 --steps 10"
    yield "Ctrl-C stops the picture that is being drawn, Tab completes, Up recalls."
