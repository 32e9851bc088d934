"""Where a model's files come from, and who is asked before they are fetched."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana_cli.checkpoints import hub, obtaining
from sana_cli.checkpoints.hub import Offer
from sana_cli.checkpoints.hub_snapshot import HubSnapshot
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

REPO, VARIANT = "own/tiny", VARIANTS["sana-0.6b"]


class Hub:
    """Stands for `checkpoints.hub`: what it has, and what it was asked."""

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.snapshot = HubSnapshot(path=offer.cache / "snapshot", revision=offer.revision)
        self.is_here = self.is_offline = False
        self.fails: SanaError | None = None
        self.asked: list[str] = []

    def cached(self, repo_id: str, **options: Any) -> HubSnapshot | None:
        return self.snapshot if self.is_here else None

    def ask(self, repo_id: str, **options: Any) -> Offer:
        self.asked.append("ask")
        if self.fails:
            raise self.fails
        return self.offer

    def fetch(self, repo_id: str, *, offline: bool, **options: Any) -> HubSnapshot:
        self.asked.append("fetch offline" if offline else "fetch")
        return self.snapshot


@pytest.fixture
def at(offered: Callable[[], Offer], monkeypatch: pytest.MonkeyPatch) -> Hub:
    there = Hub(offered())
    for name in ("cached", "ask", "fetch"):
        monkeypatch.setattr(hub, name, getattr(there, name))
    monkeypatch.setattr(hub, "is_offline", lambda: there.is_offline)
    monkeypatch.setattr(hub, "is_refusal", lambda error: error is there.fails)
    return there


def fits(found: Found) -> str:
    return "judged"


def test_what_is_here_asks_nobody(at: Hub) -> None:
    at.is_here = True
    assert obtain(REPO, None, Access(), judge=fits).folder == at.snapshot.path
    assert at.asked == []


def test_a_download_is_judged_and_approved_first(at: Hub) -> None:
    told: list[object] = []
    access = Access(approve=lambda offer, model: told.append((offer.repo_id, model)))
    assert obtain(REPO, None, access, judge=fits).revision == at.offer.revision
    assert told == [(REPO, "judged")]
    assert at.asked == ["ask", "fetch"]


def test_an_unfit_model_is_not_fetched(at: Hub) -> None:
    def refuse(found: Found) -> None:
        raise checkpoint_error(f"{found.folder}/vae/config.json is bad", hint="look")

    with pytest.raises(SanaError) as caught:
        obtain(REPO, None, Access(approve=lambda *_: None), judge=refuse)
    assert caught.value.message == "own/tiny: vae/config.json is bad"
    assert caught.value.hint == "look; nothing was downloaded"
    assert at.asked == ["ask"]


def test_nobody_to_ask(at: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small downloads need no yes."""
    obtain(REPO, None, Access(), judge=fits)
    assert at.asked == ["ask", "fetch"]
    monkeypatch.setattr(obtaining, "LARGE", 1)
    with pytest.raises(SanaError, match=r"own/tiny is not here: .* to download") as caught:
        obtain(REPO, None, Access(), judge=fits)
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "sana pull own/tiny" in caught.value.hint


def test_planning_fetches_no_weights(at: Hub) -> None:
    found = obtain(REPO, None, Access(planning=True), judge=fits)
    assert found.absent is not None
    assert found.absent.source == "the headers of its files on the hub"
    assert at.asked == ["ask"]


@pytest.mark.parametrize("why", ["offline", "variable", "refused"])
def test_planning_needs_no_hub_for_a_published_model(at: Hub, why: str) -> None:
    at.is_offline = why == "variable"
    at.fails = SanaError("cannot reach it", hint="x", code=ExitCode.ENVIRONMENT)
    access = Access(planning=True, offline=why == "offline")
    found = obtain(VARIANT.repo, VARIANT, access, judge=fits)
    assert found.absent is not None
    reason = "cannot reach it" if why == "refused" else "offline"
    assert found.absent.source == f"its published configuration ({reason})"
    assert found.absent.download_bytes == sum(VARIANT.download_bytes.values())
    at.is_offline = False
    with pytest.raises(SanaError, match="cannot reach it"):
        obtain(REPO, None, Access(planning=True), judge=fits)


def test_a_picture_chooses_no_download(at: Hub) -> None:
    with pytest.raises(SanaError, match=r"a\.png names the model own/tiny") as caught:
        obtain(REPO, None, Access(named_by="a.png"), judge=fits)
    assert "if you trust it" in caught.value.hint
    assert at.asked == []
    at.is_here = True
    obtain(REPO, None, Access(named_by="a.png"), judge=fits)


def test_offline_asks_the_cache_for_its_error(at: Hub) -> None:
    obtain(REPO, None, Access(offline=True), judge=fits)
    assert at.asked == ["fetch offline"]


def test_large_is_a_hundred_megabytes(offered: Callable[[], Offer]) -> None:
    offer = offered()
    (first, *_) = offer.files
    refuse_large(replace(offer, files=(replace(first, size=LARGE - 1),)), None)
    with pytest.raises(SanaError):
        refuse_large(replace(offer, files=(replace(first, size=LARGE),)), None)


def test_names_to_pull() -> None:
    assert pull_name(VARIANT.repo) == "sana-0.6b"
    assert pull_name(REPO) == REPO


def test_a_repo_without_our_files_is_called_by_its_kind(
    at: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    at.fails = checkpoint_error("own/tiny has no transformer/config.json", hint="x")
    monkeypatch.setattr(hub, "pieces", lambda *_: [b'{"_class_name": "FluxPipeline"}'])
    with pytest.raises(SanaError, match="own/tiny is a FluxPipeline, no Sana pipeline"):
        obtain(REPO, None, Access(), judge=fits)


def test_an_outline_goes_with_what_was_found(offered: Callable[[], Offer]) -> None:
    found, judged = outlined(offered(), lambda found: Path(found.folder).is_dir(), planning=True)
    assert judged
    assert found.absent is not None
    assert found.absent.headers("vae")
