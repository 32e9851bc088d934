"""The model card names what ships with the model, and the shipped card has the recipe's standing sections."""

from pathlib import Path

import pytest

from sana_cli.checkpoints.model_names import BUILTIN_FOLDER
from training.model_card import write_card


@pytest.fixture
def card(tmp_path: Path) -> str:
    path = tmp_path / "README.md"
    write_card(
        path, tmp_path / "none.json", notes="A note.", hashes={"a.safetensors": "00"},
        budgets={"autoencoder": (1234, 5.0)}, command="python -m training all",
        vocabulary={"animals": ["cat"]},
    )  # fmt: skip
    return path.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0].strip()


def test_what_was_given_is_in_it(card: str) -> None:
    for words in (
        "Not evaluated yet",
        "A note.",
        "`a.safetensors`: SHA-256 `00`",
        "- animals: cat",
    ):
        assert words in card
    assert "- autoencoder: 1,234 steps in 5 minutes" in card


@pytest.mark.parametrize("title", ["Distilled from it", "Limits", "Licences"])
def test_the_shipped_card_has_the_standing_sections(card: str, title: str) -> None:
    shipped = (BUILTIN_FOLDER / "README.md").read_text(encoding="utf-8")
    assert section(shipped, title) == section(card, title)


def test_every_folder_that_it_names_ships(card: str) -> None:
    named = [word.strip("`,:;.") for word in section(card, "Distilled from it").split()]
    folders = [word for word in named if word.endswith("/")]
    assert folders
    for folder in folders:
        assert (BUILTIN_FOLDER / folder).is_dir(), folder
