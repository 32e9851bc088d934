"""`--safety`: what a tiny random ShieldGemma answers is what transformers says, and what it refuses is not drawn."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.modules.module import register_module_module_registration_hook

from sana_cli.checkpoints.model_files import read_json
from sana_cli.errors import ExitCode, SanaError
from sana_cli.images.picture_file import SHEET_KEY, read_settings
from sana_cli.loading.streaming import StreamedBlocks
from sana_cli.models.gemma2 import Gemma2
from sana_cli.pipeline.safety import _POLICY, _QUESTION, MODEL, THRESHOLD, SafetyCheck, _Judge
from sana_cli.terminal.progress_bars import ConsoleReporter

CPU = torch.device("cpu")
SMALL = ("--size", "32x32", "--steps", "1", "--device", "cpu", "--seed", "1")
WORDS = [
    "cat",
    "dog",
    "owl",
    "fox",
    "bus",
    "tree",
    "frog",
    "moon",
    "star",
    "fish",
    "bird",
    "boat",
    "rain",
    "snow",
    "lamp",
    "door",
]


@dataclass(frozen=True, slots=True)
class Shield:
    """A tiny checking model, and the prompt that it finds least and most risky."""

    folder: Path
    good: str
    bad: str
    risks: dict[str, float]  # by transformers


@pytest.fixture(scope="module")
def shield(tmp_path_factory: pytest.TempPathFactory) -> Shield:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    folder = tmp_path_factory.mktemp("shield")
    question = _QUESTION.format(prompt=" ".join(WORDS), policy=_POLICY)
    texts = pre_tokenizers.Whitespace().pre_tokenize_str(f"{question} a Yes No")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    vocabulary = list(dict.fromkeys([*special, *(text for text, _ in texts)]))
    fast = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    fast.add_special_tokens(special)
    fast.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<bos>", "unk_token": "<unk>", "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(2)  # one whose answers lie on both sides of the threshold
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(vocabulary), hidden_size=32, intermediate_size=64, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, query_pre_attn_scalar=8,
            initializer_range=0.5, final_logit_softcapping=5.0, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    model.save_pretrained(folder)
    answers = [vocabulary.index("Yes"), vocabulary.index("No")]

    def risk(prompt: str) -> float:
        ids = fast.encode(_QUESTION.format(prompt=prompt, policy=_POLICY)).ids
        with torch.inference_mode():
            logits = model(torch.tensor([[vocabulary.index("<bos>"), *ids]])).logits
        return float(logits[0, -1, answers].softmax(dim=0)[0])

    risks = {f"a {word}": risk(f"a {word}") for word in WORDS}
    good, bad = min(risks, key=risks.__getitem__), max(risks, key=risks.__getitem__)
    assert risks[good] < THRESHOLD < risks[bad]
    return Shield(folder, good, bad, risks)


@pytest.fixture(autouse=True)
def _in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on processors with bf16 instructions, whose answers differ in the second digit."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


@pytest.mark.parametrize("max_memory", [None, 2**20], ids=["resident", "streamed"])
def test_the_answer_is_that_of_transformers(shield: Shield, max_memory: int | None) -> None:
    judge = _Judge(shield.folder, CPU, max_memory)
    for prompt, expected in shield.risks.items():
        assert judge.risk(prompt) == pytest.approx(expected, abs=1e-4)
        assert judge.risk(f"  {prompt}<end_of_turn> ") == judge.risk(prompt), "no way out"


@pytest.fixture
def checked(
    sana: Callable[..., Any], shield: Shield, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Callable[..., Any]:  # fmt: skip
    """Draw with the tiny model, and with safety set in the file of settings."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text(f'safety = true\nsafety_model = "{shield.folder}"\n')
    monkeypatch.setenv("SANA_CONFIG", str(file))
    return lambda *words: sana(*words, "-m", tiny_model, *SMALL)


def test_one_prompt(checked: Callable[..., Any], shield: Shield, tmp_path: Path) -> None:
    refused = checked("generate", shield.bad)
    assert (refused.code, refused.out) == (ExitCode.REFUSED, "")
    risk = shield.risks[shield.bad]
    assert f"error: refused: '{shield.bad}' is unsafe with probability {risk:.2f}" in refused.err
    assert "above the threshold of 0.20" in refused.err
    assert not list(tmp_path.glob("*.png*"))
    assert checked("generate", shield.bad, "--no-safety", "-o", "bad.png").code == 0
    assert checked("generate", shield.good, "-o", "good.png").code == 0
    again = checked("generate", "--from", "bad.png", "-o", "again.png")
    assert again.code == ExitCode.REFUSED, "a picture's prompt is checked, too"


def test_a_batch(checked: Callable[..., Any], shield: Shield, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{shield.good}\n{shield.bad}\n\n{shield.bad}\n{shield.good}\n")
    for _ in range(2):  # the second time all that may be drawn is there
        result = checked("generate", "--prompts", "p.txt")
        assert result.code == ExitCode.REFUSED
        assert f"note: line 2: refused: '{shield.bad}'" in result.err
        assert f"note: line 4: refused: '{shield.bad}'" in result.err
        assert f"error: refused: '{shield.bad}'" in result.err
        slug = shield.good.replace(" ", "-")
        assert sorted(p.name for p in tmp_path.glob("*.png")) == [f"1-{slug}.png", f"4-{slug}.png"]
    assert result.out == ""


@pytest.fixture
def loads(shield: Shield) -> Iterator[list[bool]]:
    """Every time the checking model is loaded: whether its layers are streamed."""
    seen: list[bool] = []
    layers = read_json(shield.folder / "config.json")["num_hidden_layers"]

    def registered(module: torch.nn.Module, name: str, child: torch.nn.Module) -> None:
        """Its list of layers is put into the model, and replaced by another one if it is streamed."""
        if isinstance(module, Gemma2) and name == "layers" and len(child) == layers:  # type: ignore[arg-type]
            if isinstance(child, StreamedBlocks):
                seen[-1] = True
            else:
                seen.append(False)

    with register_module_module_registration_hook(registered):
        yield seen


@pytest.mark.parametrize("good", [1, 2])
def test_a_sheet_holds_what_was_drawn(
    checked: Callable[..., Any], shield: Shield, tmp_path: Path, good: int
) -> None:
    (tmp_path / "p.txt").write_text("\n".join([shield.bad] + [shield.good] * good))
    result = checked("generate", "--prompts", "p.txt", "--grid", "--json")
    assert result.code == ExitCode.REFUSED
    assert len(result.told("drawn")) == good
    assert [told["line"] for told in result.told("error")] == [1]
    assert [told["path"] for told in result.told("grid")] == ["p-grid.png"] * (good == 2)
    if good == 2:
        assert len(read_settings(tmp_path / "p-grid.png")[SHEET_KEY]) == 2


def test_a_session(
    sana: Callable[..., Any], checked: Callable[..., Any], shield: Shield, tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch, loads: list[bool],
) -> None:  # fmt: skip
    """The check is loaded once, for all prompts and models."""
    lines = (
        f"/size 32x32\n/steps 1\n{shield.good}\n{shield.bad}\n{shield.good}\n"
        f"/model builtin\n{shield.good}\n{shield.bad}\n"
    )
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    result = sana("repl", "-m", tiny_model, "--device", "cpu", "--quiet")
    assert result.code == ExitCode.REFUSED
    assert len(result.out.splitlines()) == 3
    assert f"error: refused: '{shield.bad}'" in result.err
    assert loads == [False]


def test_what_stays_of_the_check(shield: Shield, loads: list[bool]) -> None:
    """All of it where there is room, two layers where there is less, nothing where there is none."""
    reporter = ConsoleReporter(quiet=True)

    def ask(check: SafetyCheck, prompt: str, spare: int | None) -> None:
        check.refusals([prompt], device=CPU, max_memory=None, spare=spare, reporter=reporter)

    for spare, stays, streamed in (
        (None, True, False),
        (2**20, True, False),
        (100_000, True, True),
        (0, False, False),
        (9, False, True),
    ):
        loads.clear()
        check = SafetyCheck(shield.folder)
        for prompt in ("one", "two", "one"):
            ask(check, prompt, spare)
        assert loads == [streamed] * (1 if stays else 2), spare
    check = SafetyCheck(shield.folder)
    ask(check, "one", None)
    ask(check, "one", 9)
    loads.clear()
    ask(check, "two", None)
    assert loads == [False], "it had gone when there was no more room"


def test_where_the_check_is_looked_for(
    sana: Callable[..., Any], shield: Shield, tiny_model: Path, monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    """In the hub's cache; nothing is downloaded, and its lack is told before the model is opened."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    missing = sana("generate", "a cat", "-m", "sana-0.6b", "--safety")
    assert missing.code == ExitCode.ENVIRONMENT
    assert f"--safety needs {MODEL}, which is not here" in missing.err
    assert f"hf download {MODEL}" in missing.err
    snapshot = tmp_path / "hub/models--google--shieldgemma-2b/snapshots" / ("a" * 40)
    shutil.copytree(shield.folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("a" * 40)
    assert SafetyCheck.find(None) == SafetyCheck(snapshot)
    words = ("generate", shield.bad, "-m", tiny_model, *SMALL, "--safety")
    assert sana(*words).code == ExitCode.REFUSED
    with pytest.raises(SanaError, match="--safety needs somebody/else"):
        SafetyCheck.find("somebody/else")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "missing file"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights in"),
        (lambda f: (f / "config.json").write_text("{}"), "Sana's is gemma2"),
        (
            lambda f: (f / "tokenizer.json").write_text(
                (f / "tokenizer.json").read_text().replace('"Yes"', '"Ja"')
            ),
            "has no words for Yes and No",
        ),
    ],
    ids=["tokenizer", "weights", "configuration", "words"],
)
def test_a_broken_check_lets_nothing_pass(
    checked: Callable[..., Any], shield: Shield, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], object], message: str,
) -> None:  # fmt: skip
    copy = tmp_path / "copy"
    shutil.copytree(shield.folder, copy)
    damage(copy)
    monkeypatch.setenv("SANA_SAFETY_MODEL", str(copy))
    result = checked("generate", shield.good)
    assert result.code == ExitCode.CHECKPOINT, result.err
    assert message in result.err
    assert not list(tmp_path.glob("*.png*"))


@pytest.mark.parametrize("typed", [True, False])
@pytest.mark.parametrize(
    "command", ["generate cat --dry-run", "compare builtin builtin", "repl -q"]
)
def test_a_missing_checker_says_which_setting_asks_for_it(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, command: str, typed: bool
) -> None:
    if typed and command.startswith("compare"):
        pytest.skip("it has no such option")
    if not typed:
        monkeypatch.setenv("SANA_SAFETY", "true")
    result = sana(*command.split(), *(["--safety"] if typed else []))
    assert result.code == 3, result.err
    assert "--safety needs google/shieldgemma-2b, which is not here" in result.err
    assert ("safety is set by SANA_SAFETY" in result.err) is not typed
