"""`sana pull`, `models`, `default`, `remove` and `info` of what they handle, with a hub on the loopback."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli.errors import ExitCode

REPO = "Efficient-Large-Model/Sana_600M_1024px_diffusers"


class Sana:
    """`sana` beside a hub, in this process; in one of its own where it is killed, or asks."""

    def __init__(self, sana: Callable[..., Any], terminal: Any, hub: Any, tmp_path: Path) -> None:
        self.sana, self.terminal, self.hub = sana, terminal, hub
        self.environment = hub.environment(
            SANA_CONFIG=str(tmp_path / "config.toml"), SANA_MODELS=str(tmp_path / "models")
        )

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "sana_cli", *map(str, words)]

    def __call__(self, *words: object) -> Any:
        with self.hub.here():
            return self.sana(*words)

    def process(self, *words: object) -> Any:
        """The same where huggingface_hub reads the environment on import."""
        done = subprocess.run(
            self.command(*words), env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        return type(self.sana("--version"))(done.returncode, done.stdout, done.stderr)

    def json(self, *words: object) -> dict[str, Any]:
        done = self(*words, "--json")
        assert done.code == 0, done.err
        return done.document

    def typed(self, answer: str, *words: object) -> tuple[int, str]:
        """The exit code and everything shown, in a terminal where `answer` is typed at the question."""
        terminal = self.terminal(self.command(*words), environment=self.environment)
        before = terminal.shows("[y/N]")
        terminal.type(f"{answer}\n")
        code, after = terminal.end()
        return code, before + after


@pytest.fixture
def at_hub(
    sana: Callable[..., Any], terminal: Any, hub: Any, tiny_model: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Sana:  # fmt: skip
    files = [path for path in tiny_model.rglob("*") if path.is_file()]
    hub.repos[REPO] = {str(path.relative_to(tiny_model)): path.read_bytes() for path in files}
    at_hub = Sana(sana, terminal, hub, tmp_path)
    for name in ("SANA_CONFIG", "SANA_MODELS"):
        monkeypatch.setenv(name, at_hub.environment[name])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub.cache / "hub"))
    return at_hub


def row(document: dict[str, Any], name: str = "sana-0.6b") -> dict[str, Any]:
    return next(model for model in document["models"] if model["name"] == name)


def test_life_of_a_model(at_hub: Sana, hub: Any, tmp_path: Path) -> None:
    before = row(at_hub.json("models"))
    assert (before["state"], before["size_bytes"]) == ("not downloaded", 0)
    assert at_hub.json("info", "sana-0.6b")["downloaded"] is False

    done = at_hub("pull", "sana-0.6b", "--yes")
    assert done.code == 0, done.err
    for told in (REPO, "licence: NVIDIA License", "Gemma", "vae/diffusion_pytorch_model", "in all"):
        assert told in done.err
    assert "sana generate PROMPT --model sana-0.6b" in done.out
    again = at_hub.json("pull", "sana-0.6b")  # nothing to ask about
    assert again["downloaded_bytes"] == 0
    assert again["total_bytes"] == sum(map(len, hub.repos[REPO].values()))

    after = at_hub.json("models")
    assert row(after)["state"] == "downloaded"
    assert row(after)["size_bytes"] >= again["total_bytes"]
    assert after["total_bytes"] == row(after)["size_bytes"]
    assert at_hub.json("info", "sana-0.6b")["downloaded"] is True

    assert at_hub("default", "SANA-0.6B").code == 0
    listed = at_hub.json("models")
    assert (listed["default"], row(listed)["default"]) == ("sana-0.6b", True)
    assert at_hub("default").out.startswith("SANA-0.6B")
    drawn = at_hub(
        "generate",
        "x",
        "--offline",
        "--size",
        "64x64",
        "--steps",
        1,
        "-o",
        tmp_path / "a.png",
        "-q",
    )
    assert drawn.code == 0, drawn.err

    removed = at_hub("remove", "sana-0.6b", "--yes")
    assert removed.code == 0, removed.err
    assert "freed" in removed.out
    assert "still the default" in removed.err
    assert row(at_hub.json("models"))["state"] == "not downloaded"
    left = {path.name for path in (hub.cache / "hub").iterdir()}
    assert left <= {".locks", "CACHEDIR.TAG"}


def test_both_ask(at_hub: Sana, hub: Any) -> None:
    """In a terminal: no is no, yes is yes. Elsewhere nobody can answer, and nothing happens."""
    code, shown = at_hub.typed("n", "pull", "sana-0.6b")
    assert (code, "licence: NVIDIA" in shown, "cancelled" in shown) == (130, True, True)
    done = at_hub("pull", "sana-0.6b")
    assert done.code == ExitCode.USAGE
    assert "--yes" in done.err
    assert not any(name.endswith(".safetensors") for name in hub.downloaded())
    code, shown = at_hub.typed("y", "pull", "sana-0.6b")
    assert code == 0, shown
    assert "model.safetensors" in shown
    assert at_hub("remove", "sana-0.6b").code == ExitCode.USAGE
    assert at_hub.typed("", "remove", "sana-0.6b")[0] == 130
    assert row(at_hub.json("models"))["state"] == "downloaded"
    assert at_hub.typed("y", "remove", "sana-0.6b")[0] == 0
    assert row(at_hub.json("models"))["state"] == "not downloaded"


def test_a_killed_pull_goes_on_where_it_was(at_hub: Sana, hub: Any) -> None:
    """File by file here; bytes within a large file are the business of test_hub.py."""
    hub.stop_at["text_encoder/model.safetensors"] = (0, "hang")
    process = subprocess.Popen(
        at_hub.command("pull", "sana-0.6b", "--yes", "--quiet"), env=at_hub.environment
    )
    assert hub.reached.wait(240)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.release.set()
    assert row(at_hub.json("models"))["state"] == "partly downloaded"
    assert at_hub("generate", "x", "-m", "sana-0.6b", "--offline").code == ExitCode.ENVIRONMENT
    hub.requests.clear()
    done = at_hub("pull", "sana-0.6b", "--yes")
    assert done.code == 0, done.err
    assert "here already" in done.err
    fetched = {request.path for request in hub.gets("/cdn/")}
    assert not any("transformer" in path for path in fetched)
    assert any("text_encoder" in path for path in fetched)
    assert row(at_hub.json("models"))["state"] == "downloaded"


def test_two_pulls_at_once(at_hub: Sana, hub: Any) -> None:
    processes = [
        subprocess.Popen(
            at_hub.command("pull", "sana-0.6b", "--yes", "--json"), env=at_hub.environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert json.loads(out)["model"] == "sana-0.6b"
    blobs = [request.path for request in hub.gets("/cdn/")]
    assert len(blobs) == len(set(blobs)), "a file was downloaded twice"


def test_pull_and_quantize(at_hub: Sana, tmp_path: Path) -> None:
    options = ("--quantize", "w8a8", "--samples", 0, "--yes")
    document = at_hub.json("pull", "sana-0.6b", *options)
    assert document["quantized"] == str(tmp_path / "models/sana-0.6b-w8a8")
    made = row(at_hub.json("models"), "sana-0.6b-w8a8")
    assert made["state"] == "quantized"
    assert 0 < made["size_bytes"]
    assert at_hub.json("info", "sana-0.6b-w8a8")["model"] == "sana-0.6b-w8a8"
    drawn = at_hub(
        "generate", "x", "-m", "sana-0.6b-w8a8", "--size", "64x64", "--steps", 1,
        "-o", tmp_path / "a.png", "-q",
    )  # fmt: skip
    assert drawn.code == 0, drawn.err
    twice = at_hub("pull", "sana-0.6b", *options)
    assert (twice.code, "is here already" in twice.err) == (ExitCode.USAGE, True)
    assert at_hub("remove", "sana-0.6b-w8a8", "--yes").code == 0
    assert not any((tmp_path / "models").iterdir())


def test_any_repo_with_its_declared_licence(at_hub: Sana, hub: Any) -> None:
    hub.repos["some-one/tiny-sana"] = hub.repos.pop(REPO)
    done = at_hub("pull", "some-one/tiny-sana", "--yes")
    assert done.code == 0, done.err
    assert "licence: none is declared" in done.err
    assert row(at_hub.json("models"), "some-one/tiny-sana")["state"] == "downloaded"
    assert at_hub("remove", "some-one/tiny-sana", "--yes").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pull", "sana-0.7b"), "did you mean sana-0.6b"),
        (("pull", "builtin"), "is here already"),
        (("pull", "sana-0.6b", "--quantize", "w8a9"), "unknown recipe 'w8a9'"),
        (("pull", "sana-0.6b", "--samples", "3"), "no effect without --quantize"),
        (("remove", "builtin"), "part of the package"),
        (("remove", "builtin-sprint"), "part of the package"),
        (("remove", "sana-0.6b"), "is not here"),
        (("remove", "sana-06b"), "did you mean sana-0.6b"),
        (("remove", "."), "is your own folder"),
        (("remove", "../.."), "is your own folder"),
        (("remove", ""), "is empty"),
        (("default", ""), "is empty"),
        (("default", "."), "no model_index.json"),
        (("default", "sana-0.7b"), "did you mean sana-0.6b"),
        (("models", "sana-0.6b"), "unexpected argument"),
    ],
    ids=" ".join,
)
def test_misuse(sana: Callable[..., Any], words: tuple[str, ...], message: str) -> None:
    result = sana(*words)
    assert result.code == ExitCode.USAGE, result.err
    assert message in result.err


def test_pull_while_offline_is_set(
    sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANA_OFFLINE", "1")
    result = sana("pull", "sana-0.6b", "--yes")
    assert (result.code, "SANA_OFFLINE" in result.err) == (ExitCode.USAGE, True)


def flip(path: Path) -> None:
    """Change one bit of a file, as a bad disk does: its length and its times stay."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "name", ["transformer/diffusion_pytorch_model.safetensors", "vae/config.json"]
)
def test_a_damaged_file_is_found_and_fetched_anew(at_hub: Sana, hub: Any, name: str) -> None:
    from sana_cli import doctor

    folder = Path(at_hub.json("pull", "sana-0.6b", "--yes")["folder"])
    assert [f.state for f in doctor._digests(["sana-0.6b"])] == ["ok"]
    for options in ((), ("--verify",)):
        flip((folder / name).resolve())
        (found,) = doctor._digests(["sana-0.6b"])
        assert (found.state, found.text) == ("problem", f"sana-0.6b: {name} is damaged")
        hub.requests.clear()
        done = at_hub("pull", "sana-0.6b", "--yes", *options)
        assert (done.code, "1 damaged file replaced" in done.out) == (0, True), done.err
        assert hub.downloaded() == {name}
        assert (folder / name).read_bytes() == hub.repos[REPO][name]
        hub.requests.clear()
        again = at_hub.json("pull", "sana-0.6b", *options)
        assert (again["downloaded_bytes"], again["damaged"]) == (0, [])
        assert bool(hub.requests) == (not options)  # what is verified alone asks nobody


def test_damage_is_reported_where_nothing_can_be_fetched(
    at_hub: Sana, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(at_hub.json("pull", "sana-0.6b", "--yes")["folder"])
    flip((folder / "vae/config.json").resolve())
    monkeypatch.setenv("SANA_OFFLINE", "1")
    done = at_hub("pull", "sana-0.6b", "--verify")
    assert (done.code, "vae/config.json is damaged" in done.err) == (ExitCode.CHECKPOINT, True)
    at_hub.environment["HF_HUB_OFFLINE"] = "1"
    for options in ((), ("--verify",)):
        done = at_hub.process("pull", "sana-0.6b", *options)
        assert (done.code, "HF_HUB_OFFLINE is set" in done.err) == (ExitCode.ENVIRONMENT, True)


def test_doctor_reads_what_time_allows(at_hub: Sana) -> None:
    from sana_cli import doctor

    at_hub.json("pull", "sana-0.6b", "--yes")
    (found,) = doctor._digests(["sana-0.6b", "sana-1.6b"], seconds=0)
    assert (found.state, "not read" in found.text) == ("note", True)
    assert found.remedy == "`sana pull sana-0.6b --verify` reads all"


def test_what_is_being_downloaded_is_not_removed(at_hub: Sana, hub: Any) -> None:
    from filelock import FileLock

    assert at_hub("pull", "sana-0.6b", "--yes").code == 0
    locks = Path(hub.cache) / "hub/.locks" / f"models--{REPO.replace('/', '--')}"
    assert not list(locks.iterdir())  # none stays
    with FileLock(locks / f"{'a' * 64}.lock"):
        result = at_hub("remove", "sana-0.6b", "--yes")
    assert result.code == ExitCode.ENVIRONMENT
    assert "is being downloaded" in result.err
    assert row(at_hub.json("models"))["state"] == "downloaded"


@pytest.mark.parametrize(
    "words", [("models",), ("info", "sana-0.6b"), ("default",), ("config", "show")], ids=" ".join
)
def test_light_commands_load_nothing_heavy(words: tuple[str, ...]) -> None:
    program = (
        "import sys\nfrom sana_cli.cli import main\n"
        f"code = main({list(words)!r})\n"
        "heavy = {'torch', 'rich', 'transformers', 'huggingface_hub.file_download'} & set(sys.modules)\n"
        "assert code == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_model_takes_no_room(at_hub: Sana) -> None:
    assert at_hub("models").out.splitlines()[-1].startswith("nothing in ")
