"""Downloads of decoders: judged before, whole or not at all, and refused where nobody may."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sana_cli.checkpoints.checkpoint import Checkpoint
from sana_cli.checkpoints.find_decoder import find_decoder, kept_file
from sana_cli.checkpoints.obtain_decoder import download_decoder, obtain_decoder
from sana_cli.checkpoints.obtaining import Access
from sana_cli.checkpoints.opening import open_checkpoint
from sana_cli.checkpoints.published_file import git_blob_id
from sana_cli.config.decoders import DECODERS, PublishedDecoder
from sana_cli.errors import ExitCode, SanaError


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANA_MODELS", str(tmp_path / "models"))


@pytest.fixture
def published(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(str(tiny_model))


@pytest.fixture
def content(decoder_files: ModuleType, tmp_path: Path) -> bytes:
    return decoder_files.write_taesana(tmp_path / "t.pth").read_bytes()


@pytest.fixture
def served(content: bytes) -> Iterator[PublishedDecoder]:
    """TAESANA's file on a server of this machine; `/wrong` brings another one, anything else none."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/file": content, "/wrong": b"a page that asks for a password"}.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        yield DECODERS["tiny"]._replace(source=f"{address}/file", blob_id=git_blob_id(content))
        server.shutdown()


def test_a_file(published: Checkpoint, served: PublishedDecoder, content: bytes) -> None:
    seen: list[int] = []
    access = Access(progress=lambda name, done, total: seen.append(done))
    download_decoder(served, published, access)
    assert kept_file(served).read_bytes() == content
    assert seen[-1] == len(content)
    assert find_decoder("tiny", published) is not None


@pytest.mark.parametrize(
    ("path", "message"),
    [("wrong", "is not the published file"), ("absent", "cannot download the decoder tiny")],
)
def test_nothing_is_kept_of_another(
    path: str, message: str, published: Checkpoint, served: PublishedDecoder
) -> None:
    other = served._replace(source=served.source.replace("/file", f"/{path}"))
    with pytest.raises(SanaError) as caught:
        download_decoder(other, published, Access())
    assert message in caught.value.message
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert not kept_file(served).exists()


def test_offline(published: Checkpoint) -> None:
    for name in ("tiny", "lite"):
        with pytest.raises(SanaError, match=f"the decoder {name} is not here"):
            obtain_decoder(name, published, Access(offline=True))


def test_git_names_content() -> None:
    assert git_blob_id(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object


def test_a_repository(
    hub: Any,
    published: Checkpoint,
    decoder_files: ModuleType,
    reference: ModuleType,
    tmp_path: Path,
) -> None:
    folder = decoder_files.write_lite(tmp_path / "lite", reference)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.repos["some-one/lite"] = {**files, "README.md": b"no part of it"}
    with hub.here():
        found = obtain_decoder("some-one/lite", published, Access())
        assert found is not None
        assert found.name == "some-one/lite"
        assert {path.name for path in found.path.iterdir()} == set(files)
        hub.requests.clear()
        assert obtain_decoder("some-one/lite", published, Access()) == found
        assert hub.requests == [], "what is here needs no question"
        scaled = files["config.json"].replace(b"0.41407", b"0.5")
        hub.repos["some-one/other"] = {**files, "config.json": scaled}
        with pytest.raises(SanaError, match="decodes latents of another autoencoder"):
            obtain_decoder("some-one/other", published, Access())
        weights = [r for r in hub.requests if "other" in r.path and "safetensors" in r.path]
        assert weights == []
