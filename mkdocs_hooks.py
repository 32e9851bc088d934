"""Hooks of MkDocs: pages link to files of the repository as they do in a clone; the site takes those files along."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
# A relative link that leaves docs/, as far as its anchor.
OUTWARDS = re.compile(r"\]\((\.\./[^)#\s]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add every file outside of docs/ that a page links to; MkDocs then reports what is missing."""
    for page in list(files.documentation_pages()):
        for target in OUTWARDS.findall(page.content_string):
            inside = _inside(page.src_uri, target)
            source = ROOT / inside.removeprefix("files/")
            if source.is_file() and files.get_file_from_path(inside) is None:
                files.append(File.generated(config, inside, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point those links at the copies in the site."""
    depth = "../" * page.file.src_uri.count("/")
    return OUTWARDS.sub(lambda found: f"]({depth}{_inside(page.file.src_uri, found[1])}", markdown)


def _inside(page: str, target: str) -> str:
    """`../benchmarks/x.json` on the page `memory.md` -> `files/benchmarks/x.json`."""
    whole = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return f"files/{whole}"
