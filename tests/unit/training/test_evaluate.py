"""How pictures are counted as right, by group and half, and what a whole evaluation writes."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.checker import Verdict
from training.evaluate import (
    BATCH,
    TESTS,
    Painter,
    Question,
    edge_contrast,
    evaluate,
    paint_all,
    print_scores,
    questions,
    score,
    share,
    wilson,
)
from training.sprites import Sprites

ALL_RIGHT = Verdict(background=True, count=True, things=True, places=True, size=True, style=True)


@pytest.mark.parametrize(
    ("hits", "trials", "expected"),
    [
        (112, 114, (0.9383, 0.9952)),
        (0, 0, (0.0, 1.0)),
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (5, 10, (0.2366, 0.7634)),
    ],
)
def test_intervals(hits: int, trials: int, expected: tuple[float, float]) -> None:
    """Values of Wilson's formula, E. B. Wilson 1927, as statsmodels' `proportion_confint` gives them."""
    assert wilson(hits, trials) == pytest.approx(expected, abs=1e-4)


def test_shares() -> None:
    verdicts = [ALL_RIGHT, replace(ALL_RIGHT, count=False), ALL_RIGHT]
    found = share(verdicts, lambda v: v.count)
    assert (found["hits"], found["trials"], found["share"]) == (2, 3, 0.6667)
    assert share([], lambda v: v.count)["trials"] == 0


@pytest.mark.parametrize(
    ("group", "asked"),
    [
        ("shape", {"background", "things", "count"}),
        ("shape relation", {"things", "places"}),
        ("object", {"things"}),
        ("object relation", {"things", "places"}),
        ("count", {"things", "count"}),
        ("mixed relation", {"things", "places"}),
    ],
)
def test_what_a_group_asks_for(group: str, asked: set[str]) -> None:
    assert TESTS[group](ALL_RIGHT)
    for name in ("background", "count", "things", "places", "size", "style"):
        assert TESTS[group](replace(ALL_RIGHT, **{name: False})) == (name not in asked)


def test_questions_are_fixed_and_half_held_out() -> None:
    asked = questions(scale=0.25)
    assert asked == questions(scale=0.25)
    assert len(asked) == 114
    assert len({q.seed for q in asked}) == 114
    assert {q.group for q in asked} == set(TESTS)
    for group in ("shape", "shape relation", "object relation"):
        halves = [q.held_out for q in asked if q.group == group]
        assert abs(2 * sum(halves) - len(halves)) <= 1


def test_scores_by_group_and_half() -> None:
    asked = questions(scale=0.1)
    verdicts = [
        replace(ALL_RIGHT, things=not q.held_out, size=q.group != "count", places=not q.held_out)
        for q in asked
    ]
    found = score(asked, verdicts)
    for group in TESTS:
        count = sum(q.group == group for q in asked)
        held = sum(q.held_out for q in asked if q.group == group)
        entry = found[group]
        assert isinstance(entry, dict)
        assert entry["right"]["trials"] == count
        assert entry["right"]["hits"] == count - held
        assert entry.get("held_out", {"trials": 0, "hits": 0})["trials"] == held
        assert "held_out" not in entry or entry["held_out"]["hits"] == 0
        assert "seen" not in entry or entry["seen"]["hits"] == count - held
        assert entry["size"]["hits"] == (0 if group == "count" else count)
    whole = found["all"]
    assert isinstance(whole, dict)
    assert whole["right"]["trials"] == len(asked)


@dataclass(frozen=True, kw_only=True)
class Recorder(Painter):
    """Draws the seed as a grey, and remembers its calls."""

    calls: list[int] = field(default_factory=list)

    def paint(self, prompts: list[str], seeds: list[int]) -> np.ndarray:
        assert len(prompts) == len(seeds)
        self.calls.append(len(prompts))
        return np.stack([np.full((4, 4, 3), seed, np.uint8) for seed in seeds])


def test_all_are_painted_in_order() -> None:
    nothing = torch.nn.Identity()
    painter = Recorder(
        text_encoder=nothing, tokenizer=None, transformer=nothing, vae=nothing, steps=1,
        guidance=1.0, shift=1.0,
    )  # fmt: skip
    asked: list[Question] = questions(scale=0.1)
    images = paint_all(painter, asked)
    assert images[:, 0, 0, 0].tolist() == [q.seed for q in asked]
    assert painter.calls == [BATCH] * (len(asked) // BATCH) + [len(asked) % BATCH]


def test_contrast_of_edges() -> None:
    """Half as high a step has half the contrast; flat pictures have none; values are clamped first."""
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    assert edge_contrast(step) == pytest.approx(1 / 7)
    assert edge_contrast(step / 2) == pytest.approx(edge_contrast(step) / 2)
    assert edge_contrast(torch.ones(1, 3, 8, 8)) == 0
    assert edge_contrast(5 * step) == pytest.approx(edge_contrast(step))


def test_a_whole_evaluation(
    sprites: Sprites, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step of the built-in model, for the single prompt that is left at this scale."""
    document = evaluate("builtin", sprites, tmp_path, scale=0.001, steps=1)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == document
    asked = questions(scale=0.001)
    scores = document["scores"]
    assert isinstance(scores, dict)
    assert document["prompts"] == len(asked)
    assert document["settings"] == {
        "steps": 1, "guidance": 4.0, "shift": 3.0, "scheduler": "flow-dpm",
    }  # fmt: skip
    wrong = document["wrong"]
    assert isinstance(wrong, list)
    assert scores["all"]["right"]["trials"] == len(asked)
    missed = sum(
        scores[g]["right"]["trials"] - scores[g]["right"]["hits"] for g in TESTS if g in scores
    )
    assert len(wrong) == missed
    assert {w["prompt"] for w in wrong} <= {q.prompt for q in asked}
    for group in {q.group for q in asked}:
        assert (tmp_path / f"sheet-{group.replace(' ', '-')}.png").is_file()
    capsys.readouterr()
    print_scores(document)
    assert len(capsys.readouterr().out.splitlines()) == len(scores)
