"""A model on the hub is judged by its small files and headers; no weight is fetched."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sana_cli.checkpoints.checkpoint import weight_headers
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.hub_outline import Outline, pipeline_index
from sana_cli.checkpoints.opening import judge_offer, open_checkpoint
from sana_cli.errors import ExitCode, SanaError
from tests.hub_server import Hub

PARTS = ("transformer", "vae", "text_encoder")


def test_the_model_is_the_one_that_a_download_would_bring(
    offered: Callable[[], Offer], folder: Path
) -> None:
    judged, here = judge_offer(offered(), name="x", variant=None), open_checkpoint(str(folder))
    assert (judged.transformer, judged.vae, judged.defaults) == (
        here.transformer,
        here.vae,
        here.defaults,
    )
    assert judged.absent is not None
    assert judged.absent.download_bytes == offered().total_bytes
    for part in PARTS:
        assert weight_headers(judged, part) == weight_headers(here, part)


def test_weights_stay_where_they_are(offered: Callable[[], Offer]) -> None:
    outline = Outline(offered())
    files = {path.name for path in outline.folder.rglob("*") if path.is_file()}
    assert "config.json" in files
    assert not [name for name in files if name.endswith(".safetensors")]
    tokenizer = outline.folder / "tokenizer/tokenizer.json"
    assert tokenizer.stat().st_size > 100
    assert set(tokenizer.read_bytes()) == {0}, "a hole of its length"
    outline.add_tokenizer()
    assert json.loads(tokenizer.read_bytes())


def test_long_headers_are_read_in_two_pieces(offered: Callable[[], Offer]) -> None:
    whole, halves = Outline(offered()), Outline(offered(), first_bytes=100)
    for part in PARTS:
        assert halves.headers(part) == whole.headers(part)


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


VAE = "vae/diffusion_pytorch_model.safetensors"
LIES = {
    "no header": (VAE, b"version https://git-lfs.github.com/spec/v1\n" * 9),
    "a header without an end": (VAE, (2**40).to_bytes(8, "little") + b"{" * 99),
    "no JSON": (VAE, (4).to_bytes(8, "little") + b"\xff\xfe{}"),
    "a list": (VAE, header(["a"])),
    "entries of another kind": (VAE, header({"a": 7})),
    "shapes of another kind": (VAE, header({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}})),
    "offsets behind the end": (VAE, header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**9]}})),
    "infinite offsets": (VAE, header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, float("inf")]}})),
    "nothing": (VAE, header({})),
    "empty": (VAE, b""),
    "nested": (VAE, (40000).to_bytes(8, "little") + b"[" * 40000),
    "index of other tensors": (
        "transformer/diffusion_pytorch_model.safetensors.index.json", b'{"weight_map": {"a": "b"}}',
    ),
    "configuration": ("vae/config.json", b"[]"),
    "pipeline": ("model_index.json", b"\xff"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(offered: Callable[[], Offer], folder: Path, lie: str) -> None:
    name, content = LIES[lie]
    if name.endswith(".index.json"):
        weights = folder / name.removesuffix(".index.json")
        weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    (folder / name).unlink(missing_ok=True)
    (folder / name).write_bytes(content)
    with pytest.raises(SanaError) as caught:
        judge_offer(offered(), name="own/tiny", variant=None)
    assert caught.value.code == ExitCode.CHECKPOINT
    assert "own/tiny" in caught.value.message
    assert "/tmp/" not in caught.value.message
    assert "\n" not in caught.value.message


def test_a_file_that_ends_early(offered: Callable[[], Offer], hub: Hub) -> None:
    offer = offered()
    hub.served_instead[VAE] = hub.repos["own/tiny"][VAE][:5]
    with pytest.raises(SanaError, match="ends after 5 bytes"):
        Outline(offer).headers("vae")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"_class_name": "X"}', {"_class_name": "X"}), (b"{", {}), (b"[]", {}), (b"[" * 99_999, {})],
    ids=["object", "cut", "list", "deep"],
)
def test_the_kind_of_a_pipeline(hub: Hub, content: bytes, expected: dict[str, str]) -> None:
    hub.repos["own/tiny"] = {"model_index.json": content}
    with hub.here():
        assert pipeline_index("own/tiny") == expected
