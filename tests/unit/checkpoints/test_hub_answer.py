"""A hub's answer is used only if it describes a repo, in every value."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from sana_cli.checkpoints.hub_answer import BadAnswer, parse_listing
from tests.hub_server import entry

REPO = "own/tiny"
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"
COMMIT, SHA1, SHA256 = "c" * 40, "a" * 40, "b" * 64


def changed(path: str, value: object) -> Callable[[dict[str, Any]], object]:
    """A lie: the answer with one value changed, e.g. "sha" or "vae/x.safetensors lfs sha256"."""

    def lie(info: dict[str, Any]) -> object:
        first, *rest = path.split()
        *between, last = rest or [first]
        place = entry(info, first) if rest else info
        for key in between:
            place = place[key]
        place[last] = value
        return info

    return lie


PATHS = ("../../../victim", "/etc", "..", ".", "", "main", COMMIT.upper(), COMMIT[:-1], COMMIT + "/..", COMMIT + "\n", "\0")  # fmt: skip
WRONG = (None, 7, True, [], {}, [COMMIT])
LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    **{f"commit {value!r}": changed("sha", value) for value in (*PATHS, *WRONG)},
    **{f"sha256 {value!r}": changed(f"{WEIGHTS} lfs sha256", value) for value in (*PATHS, *WRONG)},
    **{f"blob {value!r}": changed("vae/config.json blobId", value) for value in (*PATHS, *WRONG)},
    **{f"size {value!r}": changed(f"{WEIGHTS} size", value) for value in (-1, 1.5, "9", None, True, 10**30, [])},
    **{f"siblings {value!r}": changed("siblings", value) for value in (None, 5, "x", {}, [5], [None], [[]], [{}], [{"rfilename": 3}])},
    **{f"answer {value!r}": (lambda info, value=value: value) for value in ([], None, 5, "x", [[]])},
    "twice": lambda info: info["siblings"].append(entry(info, "vae/config.json")) or info,
    "deep": lambda info: b"[" * 100_000,
    "huge number": lambda info: b'{"sha":' + b"9" * 5_000 + b"}",
    "no text": lambda info: b"\xff\xfe\x00",
    "cut": lambda info: json.dumps(info).encode()[:-20],
    "not finite": lambda info: b'{"sha": NaN, "siblings": Infinity}',
}  # fmt: skip


def honest() -> dict[str, Any]:
    """What a hub says about a small repo."""
    names = {
        "vae/config.json": {"blobId": SHA1},
        WEIGHTS: {"blobId": SHA1, "lfs": {"sha256": SHA256}},
    }
    siblings = [{"rfilename": name, "size": 9, **more} for name, more in names.items()]
    return {"id": REPO, "sha": COMMIT, "siblings": siblings}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_an_answer_of_another_shape_is_refused(lie: Callable[[dict[str, Any]], object]) -> None:
    told = lie(honest())
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    with pytest.raises(BadAnswer) as caught:
        parse_listing(body).take(["vae/config.json", WEIGHTS])
    assert len(str(caught.value)) < 200


def test_an_honest_answer_is_taken() -> None:
    files = parse_listing(json.dumps(honest()).encode()).take(["vae/config.json", WEIGHTS])
    assert [(file.digest, file.is_large) for file in files] == [(SHA1, False), (SHA256, True)]


def test_the_licence_is_one_line() -> None:
    for card, told in (
        ({"license": "mit\nhint: rm -rf"}, "mit hint: rm -rf"), ({"license": ["a", 3, "b"]}, "a, b"),
        ({"license": 3}, ""), ([], ""), ({"license": "x" * 999}, "x" * 200),
    ):  # fmt: skip
        body = json.dumps({"sha": COMMIT, "siblings": [], "cardData": card}).encode()
        assert parse_listing(body).licence == told


def test_files_that_are_not_read_may_be_described_badly() -> None:
    """Their names and digests are nobody's business until one is taken."""
    told = honest()
    told["siblings"] += [{"rfilename": "../x"}, {"rfilename": "big", "size": -1, "blobId": SHA1}]
    listing = parse_listing(json.dumps(told).encode())
    assert set(listing.files) == {"vae/config.json", WEIGHTS}
    with pytest.raises(BadAnswer, match="cannot be a file's name"):
        listing.take(["../x"])
    with pytest.raises(BadAnswer, match="no proper size and digest of big"):
        listing.take(["vae/config.json", "big"])
