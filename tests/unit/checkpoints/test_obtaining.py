"""Where a model's files come from, and who is asked before they are fetched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints import hub as client
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.obtaining import (
    LARGE,
    Access,
    Found,
    obtain,
    outlined,
    pull_name,
    refuse_large,
)
from sana_cli.config.variants import VARIANTS
from sana_cli.errors import ExitCode, SanaError, checkpoint_error
from tests.hub_server import Hub

REPO, VARIANT = "own/tiny", VARIANTS["sana-0.6b"]
WEIGHTS = "text_encoder/model.safetensors"


@pytest.fixture
def at(offered: Callable[[], Offer], hub: Hub) -> Hub:
    """A hub that has the model, and was asked nothing yet."""
    offered()
    hub.requests.clear()
    return hub


def fits(found: Found) -> str:
    return "judged"


def test_what_is_here_asks_nobody(at: Hub) -> None:
    snapshot = client.fetch(REPO)
    at.requests.clear()
    assert obtain(REPO, None, Access(), judge=fits).folder == snapshot.path
    assert at.requests == []


def test_a_download_is_judged_and_approved_first(at: Hub) -> None:
    told: list[object] = []

    def approve(offer: Offer, model: object) -> None:
        told.append((offer.repo_id, model, at.downloaded()))

    assert obtain(REPO, None, Access(approve=approve), judge=fits).revision == at.commit(REPO)
    assert told == [(REPO, "judged", set())]
    assert WEIGHTS in at.downloaded()


def test_an_unfit_model_is_not_fetched(at: Hub) -> None:
    def refuse(found: Found) -> None:
        raise checkpoint_error(f"{found.folder}/vae/config.json is bad", hint="look")

    with pytest.raises(SanaError) as caught:
        obtain(REPO, None, Access(approve=lambda *_: None), judge=refuse)
    assert caught.value.message == "own/tiny: vae/config.json is bad"
    assert caught.value.hint == "look; nothing was downloaded"
    assert at.downloaded() == set()


def test_nobody_to_ask(at: Hub) -> None:
    """Small downloads need no yes."""

    def with_a_large_tokenizer(info: dict[str, Any]) -> dict[str, Any]:
        (file,) = (f for f in info["siblings"] if f["rfilename"] == "tokenizer/tokenizer.json")
        file["size"] = file["lfs"]["size"] = LARGE
        return info

    at.lie = with_a_large_tokenizer
    with pytest.raises(SanaError, match=r"own/tiny is not here: .* to download") as caught:
        obtain(REPO, None, Access(), judge=fits)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "sana pull own/tiny" in caught.value.hint
    assert at.downloaded() == set()
    at.lie = None
    obtain(REPO, None, Access(), judge=fits)
    assert WEIGHTS in at.downloaded()


def test_planning_fetches_no_weights(at: Hub) -> None:
    found = obtain(REPO, None, Access(planning=True), judge=fits)
    assert found.absent is not None
    assert found.absent.source == "the headers of its files on the hub"
    assert at.downloaded() == set()


@pytest.mark.parametrize("why", ["offline", "variable", "refused"])
def test_planning_needs_no_hub_for_a_published_model(
    at: Hub, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    at.statuses[("/api/",)] = (403, {})
    with pytest.raises(SanaError) as caught:
        client.ask(VARIANT.repo)
    reason = caught.value.message if why == "refused" else "offline"
    access = Access(planning=True, offline=why == "offline")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", why == "variable")
        found = obtain(VARIANT.repo, VARIANT, access, judge=fits)
    assert found.absent is not None
    assert found.absent.source == f"its published configuration ({reason})"
    assert found.absent.download_bytes == sum(VARIANT.download_bytes.values())
    with pytest.raises(SanaError, match=REPO):
        obtain(REPO, None, Access(planning=True), judge=fits)


def test_a_picture_chooses_no_download(at: Hub) -> None:
    with pytest.raises(SanaError, match=r"a\.png names the model own/tiny") as caught:
        obtain(REPO, None, Access(named_by="a.png"), judge=fits)
    assert "if you trust it" in caught.value.hint
    assert at.requests == []
    client.fetch(REPO)
    obtain(REPO, None, Access(named_by="a.png"), judge=fits)


def test_offline_asks_the_cache_for_its_error(at: Hub) -> None:
    with pytest.raises(SanaError, match="own/tiny is not in the local cache"):
        obtain(REPO, None, Access(offline=True), judge=fits)
    assert at.requests == []


def test_large_is_a_hundred_megabytes(offered: Callable[[], Offer]) -> None:
    offer = offered()
    (first, *_) = offer.files
    refuse_large(replace(offer, files=(replace(first, size=LARGE - 1),)), None)
    with pytest.raises(SanaError):
        refuse_large(replace(offer, files=(replace(first, size=LARGE),)), None)


def test_names_to_pull() -> None:
    assert pull_name(VARIANT.repo) == "sana-0.6b"
    assert pull_name(REPO) == REPO


def test_a_repo_without_our_files_is_called_by_its_kind(at: Hub) -> None:
    at.repos[REPO] = {"model_index.json": b'{"_class_name": "FluxPipeline"}'}
    with pytest.raises(SanaError, match="own/tiny is a FluxPipeline, no Sana pipeline"):
        obtain(REPO, None, Access(), judge=fits)


def test_an_outline_goes_with_what_was_found(offered: Callable[[], Offer]) -> None:
    found, judged = outlined(offered(), lambda found: Path(found.folder).is_dir(), planning=True)
    assert judged
    assert found.absent is not None
    assert found.absent.headers("vae")
