"""Read ComfyUI's `prompt`: a graph of nodes, whose inputs are values or links to outputs of other nodes. No torch."""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from sana_cli.images.foreign_settings import ForeignSettings, number_of, seed_of, whole_of

_DEEPEST = 200  # nodes from a sampler to its text
_TEXTS = ("text", "text_g", "string", "prompt", "value", "conditioning", "positive")
_NUMBERS = ("value", "int", "float", "number", "seed")  # of nodes that hold a number for others


def settings_of_graph(text: str, size: str) -> ForeignSettings | None:
    """Read the texts and numbers that reach a sampler; None where none has a text. `size`: of the picture."""
    try:
        nodes = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(nodes, dict):
        return None
    for node in sorted(nodes.values(), key=lambda node: "Sampler" not in str(_class_of(node))):
        found = _of_sampler(nodes, node, size)
        if found is not None:
            return found
    return None


def _of_sampler(nodes: Mapping[str, Any], node: object, size: str) -> ForeignSettings | None:
    inputs = _inputs(node)
    guided = inputs
    if "guider" in inputs:  # SamplerCustomAdvanced: texts and scale are the guider's
        guided = _inputs(_node_of(nodes, inputs["guider"]))
    if not ("positive" in guided and "negative" in guided) and "conditioning" not in guided:
        return None
    positive = _text_behind(nodes, guided.get("positive", guided.get("conditioning")), set())
    if not positive:
        return None
    negative = _text_behind(nodes, guided.get("negative"), set())
    around = list(_nodes_behind(nodes, node))
    width, height = (whole_of(_first(nodes, around, key)) for key in ("width", "height"))
    model = next(
        (
            v
            for n in around
            for key in ("ckpt_name", "unet_name", "model")
            if isinstance(v := n.get(key), str)
        ),
        "",
    )
    names = {"sampler_name": "sampler", "scheduler": "scheduler", "denoise": "denoise"}
    others = {
        names[key]: str(v)
        for key in names
        if isinstance(v := _first(nodes, around, key), str | int | float)
    }
    return ForeignSettings(
        program="ComfyUI",
        prompt=positive,
        negative_prompt=negative,
        size=f"{width}x{height}" if width and height else size,
        seed=seed_of(_first(nodes, around, "seed", "noise_seed")),
        steps=whole_of(_first(nodes, around, "steps")),
        guidance=number_of(_first(nodes, around, "cfg")),
        model=model,
        others=others,
    )


def _nodes_behind(nodes: Mapping[str, Any], node: object) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of a node and of those that it depends on, the nearest first."""
    waiting: deque[object] = deque([node])
    seen: set[str] = set()
    while waiting and len(seen) < _DEEPEST:
        inputs = _inputs(waiting.popleft())
        yield inputs
        for link in inputs.values():
            if isinstance(link, list) and link and isinstance(link[0], str) and link[0] not in seen:
                seen.add(link[0])
                waiting.append(nodes.get(link[0]))


def _first(nodes: Mapping[str, Any], around: list[Mapping[str, Any]], *keys: str) -> object:
    """Return the first value under one of these names, from the node that holds it for others if it is a link."""
    for inputs in around:
        for key in keys:
            value = inputs.get(key)
            if isinstance(value, list):
                held = _inputs(_node_of(nodes, value))
                value = next(
                    (held[k] for k in _NUMBERS if type(held.get(k)) in (int, float, str)), None
                )
            if type(value) in (int, float, str):
                return value
    return None


def _inputs(node: object) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}


def _node_of(nodes: Mapping[str, Any], link: object) -> object:
    is_link = isinstance(link, list) and link and isinstance(link[0], str)
    return nodes.get(link[0]) if is_link else None  # type: ignore[index]


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
    if "positive" in inputs and "negative" in inputs:  # it hands both on, by its outputs
        return _text_behind(nodes, inputs["negative" if link[1:] == [1] else "positive"], seen)
    for key in _TEXTS:
        if key in inputs and (text := _text_behind(nodes, inputs[key], seen)):
            return text
    return ""


def _class_of(node: object) -> object:
    return node.get("class_type") if isinstance(node, dict) else None
