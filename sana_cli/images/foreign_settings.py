"""Read settings that other programs store in pictures: AUTOMATIC1111's `parameters`, ComfyUI's
`prompt`. No torch.

Such pictures cannot be repeated here, since models, samplers and noise differ. Their prompts can be
used.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sana_cli.images.png_chunks import read_texts

_PARAMETERS, _GRAPH = "parameters", "prompt"  # keywords in a PNG
_EXIF, _USER_COMMENT = 0x8769, 0x9286  # where a JPEG or WebP has the parameters
_LARGEST = 2**16  # characters of parameters that are looked at
_DEEPEST = 200  # nodes of a graph from a sampler to its text
_PAIR = re.compile(r'\s*(\w[\w \-/]{0,60}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"\d{1,5}x\d{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignSettings:
    """Settings of a picture that another program drew, as far as it stored them."""

    program: str
    prompt: str
    negative_prompt: str
    size: str  # "512x512"
    others: Mapping[str, str] = field(default_factory=dict)  # by their names there

    @property
    def command(self) -> list[str]:
        """Return the words of a command that draws something similar with our models."""
        negative = ["--negative", self.negative_prompt] if self.negative_prompt else []
        words = ["sana", "generate", *negative, "--size", self.size]
        dash = self.prompt.startswith("-")
        return [*words, "--", self.prompt] if dash else [*words[:2], self.prompt, *words[2:]]


def foreign_settings_of(path: Path, image: Image.Image) -> ForeignSettings | None:
    """Read another program's settings from an open picture; None if it has no known ones. Raises OSError."""
    texts = read_texts(path, _PARAMETERS, _GRAPH) if image.format == "PNG" else {}
    size = f"{image.width}x{image.height}"
    graph = texts.get(_GRAPH)
    if graph and (found := _of_graph(graph, size)):
        return found
    parameters = texts.get(_PARAMETERS) or _user_comment(image)
    return _of_parameters(parameters[:_LARGEST], size) if parameters else None


def _user_comment(image: Image.Image) -> str:
    with suppress(Exception):  # Pillow raises what it likes for broken EXIF
        comment = image.getexif().get_ifd(_EXIF).get(_USER_COMMENT, b"")
        if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
            return comment[8:].decode("utf-16-be" if comment[8:9] == b"\0" else "utf-16-le")
    return ""


def _of_parameters(text: str, size: str) -> ForeignSettings | None:
    """The text of AUTOMATIC1111's web UI: prompt, negative prompt, and pairs on the last line."""
    *lines, last = text.strip().split("\n")
    pairs = _pairs(last)
    if len(pairs) < 3:  # as the web UI decides whether there are any
        return None
    prompts: tuple[list[str], list[str]] = [], []
    place = 0
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            place, line = 1, line.strip().removeprefix("Negative prompt:")
        prompts[place].append(line.strip())
    prompt, negative = ("\n".join(part) for part in prompts)
    stored_size = pairs.pop("Size", "")
    return ForeignSettings(
        program="another program (parameters)",
        prompt=prompt,
        negative_prompt=negative,
        size=stored_size if _SIZE.fullmatch(stored_size) else size,
        others=pairs,
    )


def _pairs(line: str) -> dict[str, str]:
    found, place = {}, 0
    while match := _PAIR.match(line, place):
        value = match[2].strip()
        if value.startswith('"'):
            with suppress(ValueError):
                value = str(json.loads(value))
        found[match[1]] = value
        place = match.end()
        if place >= len(line):
            break
    return found


def _of_graph(text: str, size: str) -> ForeignSettings | None:
    """ComfyUI's graph of nodes: the texts that reach a sampler."""
    try:
        nodes = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(nodes, dict):
        return None
    for node in nodes.values():
        inputs = _inputs(node)
        if "positive" in inputs and "negative" in inputs:
            positive, negative = (
                _text_behind(nodes, inputs[key], set()) for key in ("positive", "negative")
            )
            if positive:
                return ForeignSettings(
                    program="ComfyUI", prompt=positive, negative_prompt=negative, size=size
                )
    return None


def _inputs(node: object) -> dict[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _text_behind(nodes: Mapping[str, Any], link: object, seen: set[str]) -> str:
    """The first text on the way back from an input, which names a node and one of its outputs."""
    if isinstance(link, str):
        return link
    if not isinstance(link, list) or not link or not isinstance(link[0], str):
        return ""
    node = nodes.get(link[0])
    if link[0] in seen or len(seen) == _DEEPEST or "ZeroOut" in str(_class_of(node)):
        return ""
    seen.add(link[0])
    inputs = _inputs(node)
    for key in ("text", "text_g", "string", "prompt", "value", "conditioning", "positive"):
        if key in inputs and (text := _text_behind(nodes, inputs[key], seen)):
            return text
    return ""


def _class_of(node: object) -> object:
    return node.get("class_type") if isinstance(node, dict) else None
