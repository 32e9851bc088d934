"""A single published file arrives whole and is the right one, or nothing is kept."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sana_cli.checkpoints.hed_file import PUBLISHED
from sana_cli.checkpoints.obtaining import Access
from sana_cli.checkpoints.published_file import PublishedFile, download
from sana_cli.errors import SanaError

CONTENT = b"weights" * 50_000


@pytest.fixture
def served() -> Iterator[PublishedFile]:
    """The file on a server of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/file"
        digest = hashlib.sha256(CONTENT).hexdigest()
        yield replace(PUBLISHED, source=address, sha256=digest)
        server.shutdown()


def test_a_download_is_the_published_file(served: PublishedFile, tmp_path: Path) -> None:
    kept = tmp_path / "models" / "hed.pth"
    download(served, kept, Access())
    assert kept.read_bytes() == CONTENT
    kept.unlink()
    with pytest.raises(SanaError, match="is not the published file"):
        download(replace(served, sha256="0" * 64), kept, Access())
    assert list(kept.parent.iterdir()) == []


def test_no_connection_is_told_as_for_models(tmp_path: Path) -> None:
    """The address, a reason without its number, and that another try may help."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    published = replace(PUBLISHED, source=f"http://127.0.0.1:{port}/file")
    with pytest.raises(SanaError) as caught:
        download(published, tmp_path / "hed.pth", Access())
    assert caught.value.message.startswith(f"cannot reach http://127.0.0.1:{port}: ")
    assert "Errno" not in caught.value.message
    assert caught.value.hint.startswith("check the network")
    assert "retry, or put it there yourself: curl -L -o" in caught.value.hint
