"""Recognize files that hold no prompts in a form that is read, so that none of it is drawn as words. No torch."""

import re
from collections.abc import Sequence

# By the first bytes, for what is no text.
_BYTES = (
    (b"PK\x03\x04", "an archive or an office document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\0", "a database"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"RIFF", "a picture or a sound"),
)
_NAMES = {
    ".yaml": "YAML", ".yml": "YAML", ".xml": "XML", ".html": "a web page", ".htm": "a web page", ".toml": "TOML",
    ".ini": "an INI file", ".py": "a program", ".js": "a program", ".sh": "a shell script", ".bat": "a shell script",
    ".ps1": "a shell script", ".srt": "a file of subtitles", ".vtt": "a file of subtitles",
}  # fmt: skip
# What the first line of other formats begins with: they are text, too, and none of it is a prompt.
_FIRST_LINES = (
    (r"---$|%YAML|prompts?\s*:", "YAML"),
    (r"<\?xml", "XML"),
    (r"<!doctype|</?(?:html|head|body|div|ul|ol|li|p|table|span|br|h[1-6])\b", "a web page"),
    (r"\{\\rtf", "an RTF document"),
    (r"%PDF-", "a PDF document"),
    (r"PK\x03\x04", "an archive or an office document"),
    (r"(?:export\s+)?prompts?\s*=", "a line of a program"),
    (
        r"(?:\$\s*)?(?:sana generate [\"'-]|python3? (?:-m |\S+\.py\b)|mflux-generate\S* -|(?:\./)?sd(?:-cli)? -)",
        "a list of commands, which a shell runs",
    ),
    (r"-p[ =\"']", "a list of options of one letter (write --prompt)"),
)  # fmt: skip
# And what some line of them looks like.
_ANY_LINE = (
    (
        r"Negative prompt:|Steps: \d+, \w[\w ]*:",
        "a picture's settings as AUTOMATIC1111 writes them",
    ),
    (r"\d\d:\d\d(?::\d\d)?[.,]\d+ -->", "a file of subtitles"),
)


def other_bytes(data: bytes) -> str | None:
    """Name the format of bytes that are no text; None if it is unknown, or text."""
    return next((what for mark, what in _BYTES if data.startswith(mark)), None)


def other_text(lines: Sequence[str], suffix: str) -> str | None:
    """Name the format of a text that holds no prompts as its lines; None if it is none of those
    known. `lines` are those that hold something, `suffix` is that of the file's name.
    """
    if suffix in _NAMES:
        return _NAMES[suffix]
    for pattern, what in _FIRST_LINES:
        if lines and re.match(pattern, lines[0].strip(), re.IGNORECASE):
            return what
    for pattern, what in _ANY_LINE:
        if any(re.match(pattern, line.strip()) for line in lines):
            return what
    return None


def is_workflow(document: object) -> bool:
    """Return whether a JSON document is a workflow of ComfyUI, as its API or its pages write it."""
    if not isinstance(document, dict):
        return False
    nodes = [value for value in document.values() if isinstance(value, dict)]
    is_api = bool(nodes) and all("class_type" in node for node in nodes)
    return is_api or (isinstance(document.get("nodes"), list) and "links" in document)
