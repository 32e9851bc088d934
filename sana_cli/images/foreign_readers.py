"""Find the settings that another program stored in a picture: chunks of a PNG, or EXIF. No torch."""

from pathlib import Path

from PIL import Image

from sana_cli.images.exif import tag, user_comment
from sana_cli.images.foreign_graph import settings_of_graph
from sana_cli.images.foreign_json import settings_of_dream, settings_of_json
from sana_cli.images.foreign_parameters import settings_of_parameters
from sana_cli.images.foreign_settings import ForeignSettings
from sana_cli.images.png_chunks import read_texts

# Keywords in a PNG.
_PARAMETERS, _GRAPH, _INVOKE, _OLD_INVOKE, _DREAM = (
    "parameters",
    "prompt",
    "invokeai_metadata",
    "sd-metadata",
    "Dream",
)
_CAMERA_MODEL = 0x0110  # the tag where ComfyUI's WebP files have the graph, after "prompt:"


def foreign_settings_of(path: Path, image: Image.Image) -> ForeignSettings | None:
    """Read another program's settings from an open picture; None if it has no known ones. Raises OSError."""
    size = f"{image.width}x{image.height}"
    texts = (
        read_texts(path, _PARAMETERS, _GRAPH, _INVOKE, _OLD_INVOKE, _DREAM)
        if image.format == "PNG"
        else {}
    )
    said = {key: text for key, text in texts.items() if text}
    graph = said.get(_GRAPH) or tag(image, _CAMERA_MODEL).partition("prompt:")[2]
    if graph and (found := settings_of_graph(graph, size)):
        return found
    for key in (_INVOKE, _OLD_INVOKE):
        if key in said and (found := settings_of_json(said[key], size, "InvokeAI")):
            return found
    if _DREAM in said and (found := settings_of_dream(said[_DREAM], size)):
        return found
    parameters = said.get(_PARAMETERS) or user_comment(image)
    return (
        settings_of_json(parameters, size) or settings_of_parameters(parameters, size)
        if parameters
        else None
    )
