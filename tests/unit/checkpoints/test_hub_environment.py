"""Variables of the hub's libraries that cannot work: one line with the variable's name, exit 3, shown by doctor."""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sana_cli import doctor
from sana_cli.checkpoints import hub as client
from sana_cli.checkpoints import hub_cache
from sana_cli.checkpoints.hub_environment import bad_variables, blame, cache_variable
from sana_cli.cli import _in_words
from sana_cli.errors import ExitCode, SanaError

NO_ADDRESS = (
    "127.0.0.1:9", "host", "ftp://h", "http://", "http://[::1", "http://h:port", "http://h:99999", "http://h:0",
    "http://a b", "http://h\n", "http://" + "a" * 70, "http://me:pa/ss@h", "http://me:p?ss@h", "http://xn--\u00fc.\u2026", "file:///etc",
)  # fmt: skip
BAD = {
    "HF_ENDPOINT": ("", *NO_ADDRESS, "http://h/?token=x", "http://h#x"),
    "HF_HUB_ETAG_TIMEOUT": ("abc", "-1", "1.5", "", "inf", "9" * 5_000, "9" * 30),
    "HF_HUB_DOWNLOAD_TIMEOUT": ("abc", "-1", "1e3", ""),
    "HF_HOME": ("", "~nobody-of-this-name/x", __file__, f"{__file__}/x", "9" * 300, "x" * 9_999),
    "HF_HUB_CACHE": ("", "~nobody-of-this-name"),
    "HTTP_PROXY": ("foo://bar", "http://[::1", "h:port"),
    "https_proxy": ("socks4://h:1", "http://h:99999", "http://a b"),
    "ALL_PROXY": ("socks5://h:1",),  # without the package that it needs
    "SSL_CERT_FILE": ("/nowhere/x.pem", "/", __file__),
    "SSL_CERT_DIR": ("/nowhere", __file__),
    "SSLKEYLOGFILE": ("/nowhere/x", "/", "/dev/full", "new/", "x" * 300, "x" * 9_999),
    "HF_TOKEN": ("two words", "\u00fcber", "hf_x\x07"),
    "HUGGING_FACE_HUB_TOKEN": ("\u00fc",),
}
CASES = [(name, value) for name, values in BAD.items() for value in values]
GOOD = {
    "HF_HUB_CACHE": ("relative", "/nowhere/yet", "~/x", "\u00fc"),
    "HF_ENDPOINT": ("https://huggingface.co/", "http://[::1]:80", "http://me:pw@h/hub", "HTTP://H"),
    "HF_HUB_ETAG_TIMEOUT": ("0", "60", " 7 "),
    "HTTP_PROXY": ("", "127.0.0.1:9", "http://me:pw@h:8080", "https://h"),
    "NO_PROXY": ("*", "[::1", "a,b"),
    "HF_HOME": ("~/x", "relative"),
    "HF_TOKEN": ("", "hf_abc\n", " hf_abc "),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*BAD, "HTTPS_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not there


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda text: ascii(text)[:40])
def test_each_is_one_line_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SanaError) as caught:
        client.ask("own/tiny")
    error = caught.value
    assert (error.code, error.message.startswith(f"{name} ")) == (ExitCode.ENVIRONMENT, True)
    assert error.hint.endswith(", or unset it")
    assert len(error.message) < 200
    assert "pa/ss" not in error.message
    (finding,) = (f for f in doctor._hub() if f.state == "problem")
    assert finding.text == error.message
    assert finding.remedy == error.hint


def test_what_works_is_left_alone() -> None:
    for name, values in GOOD.items():
        for value in values:
            assert bad_variables({name: value}) == [], (name, value)


@pytest.mark.parametrize(
    ("set_to", "meant"),
    [
        ({}, "HF_HOME"), ({"HF_HOME": "a"}, "HF_HOME"), ({"XDG_CACHE_HOME": "a"}, "XDG_CACHE_HOME"),
        ({"HF_HOME": "a", "HF_HUB_CACHE": "b"}, "HF_HUB_CACHE"), ({"HF_HOME": "a", "XDG_CACHE_HOME": "b"}, "HF_HOME"),
    ],
)  # fmt: skip
def test_hints_name_the_variable_that_decides(set_to: dict[str, str], meant: str) -> None:
    assert cache_variable(set_to) == meant


@pytest.mark.parametrize("value", ["", __file__])
def test_the_folder_above_matters_where_nothing_else_is_set(value: str) -> None:
    (bad,) = bad_variables({"XDG_CACHE_HOME": value})
    assert bad.name == "XDG_CACHE_HOME"
    assert bad_variables({"XDG_CACHE_HOME": value, "HF_HOME": "/nowhere"}) == []


def test_certificates_that_can_be_read(tmp_path: Path) -> None:
    import ssl

    there = ssl.get_default_verify_paths().cafile
    for name, value in (
        ("SSL_CERT_FILE", there),
        ("SSL_CERT_DIR", tmp_path),
        ("SSLKEYLOGFILE", tmp_path / "log"),
    ):
        assert value is None or bad_variables({name: str(value)}) == []


def test_a_cache_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps from connecting does not keep from using what is here; what breaks the import does."""
    monkeypatch.setenv("HTTPS_PROXY", "foo://bar")
    assert hub_cache.find("own/tiny") is None
    with pytest.raises(SanaError, match="not in the local cache"):
        client.fetch("own/tiny", offline=True)
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "abc")
    with pytest.raises(SanaError, match="HF_HUB_ETAG_TIMEOUT"):
        hub_cache.find("own/tiny")


def test_the_exit_code(sana: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://[::1")
    for words in (
        ("pull", "own/tiny"),
        ("generate", "x", "-m", "own/tiny"),
        ("models",),
        ("remove", "own/tiny"),
    ):
        result = sana(*words)
        assert result.code == 3, words
        assert result.err.startswith("error: HF_ENDPOINT is no address of a hub"), words
    assert sana("generate", "a cat", "--dry-run").code == 0  # no hub is needed


def test_another_variable_is_blamed_by_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_MININTERVAL", "soon")
    error = blame(ValueError("could not convert string to float: 'soon'"))
    assert error.message.startswith("TQDM_MININTERVAL has a value that cannot work")
    assert error.code == ExitCode.ENVIRONMENT


def test_what_torch_imports_is_blamed_too() -> None:
    """It imports tqdm, which reads numbers from variables then: whatever command runs, it is one line."""
    values: dict[str, Any] = {"__name__": "tqdm.utils"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DELAY", "soon")
        try:
            exec(
                "def wrap():\n    raise ValueError(\"could not convert string to float: 'soon'\")",
                values,
            )
            values["wrap"]()
        except ValueError as error:
            known = _in_words(error)
    assert known is not None
    assert (known.code, known.message[:10]) == (ExitCode.ENVIRONMENT, "TQDM_DELAY")
    assert _in_words(ValueError("a bug")) is None


ODD = ("", "nonsense", "-1", "0", "1.5", "9" * 30, "a b", "a\nb", "\u00fc", "\udcff", "://", "http://[", "*", ",,", "[::1]:80", "/nowhere/x", "~nobody-of-this-name/x", "x" * 5_000)  # fmt: skip
READ_BY_LIBRARIES = (
    "HTTP_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE",
    "NETRC", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_XET_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE",
    "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_ENABLE_HF_TRANSFER",
    "HF_HUB_DISABLE_XET", "HF_XET_HIGH_PERFORMANCE", "HF_DEBUG", "XDG_CACHE_HOME", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", READ_BY_LIBRARIES)
def test_a_value_is_named_or_the_library_can_read_it(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from huggingface_hub import constants

    for value in ODD:
        monkeypatch.setenv(name, value)
        named = {bad.name for bad in bad_variables()}
        assert named <= {name}, value
        if not named:
            runpy.run_path(constants.__file__)


FILES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda path: path.write_bytes(b"\xff\xfe"),
    "words": lambda path: path.write_bytes(b"two words"),
    "umlaut": lambda path: path.write_bytes("\u00fc".encode()),
    "large": lambda path: path.write_bytes(b"x" * 20_000),
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.timeout(30)  # a reader of a pipe waits for ever
@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_token_file_that_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    path = tmp_path / "token"
    make(path)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(path))
    with pytest.raises(SanaError, match="the access token in") as caught:
        client.ask("own/tiny")
    assert caught.value.code == ExitCode.ENVIRONMENT
    assert "HF_TOKEN" in caught.value.hint
