"""Secrets are shown nowhere: not in errors, logs, tracebacks or reports."""

import json
import logging
import subprocess
import sys

import pytest

from sana_cli.doctor import _hub
from sana_cli.system.redact import without_known_secrets, without_secrets
from sana_cli.terminal import logs
from sana_cli.text import json_text, message_line

PASSWORD = "s3cr3tpw"
SHOWN = {
    "userinfo": (f"cannot reach http://me:{PASSWORD}@host:9/a: no", "cannot reach http://host:9/a: no"),
    "query": (f"at https://cdn/x?Signature={PASSWORD}&Key=2, again", "at https://cdn/x again"),
    "user alone": (f"http://{PASSWORD}@host", "http://host"),
    "of a path": (f"no such picture: https:/me:{PASSWORD}@h/i.png?t={PASSWORD}", "no such picture: https:/h/i.png"),
    "a drive": ("no such picture: C:/me@home?.png", "no such picture: C:/me@home?.png"),
    "in quotes": (f"URL('http://me:{PASSWORD}@h')", "URL('http://h')"),
    "bearer": (f"b'Bearer {PASSWORD * 3}'", "b'Bearer ***'"),
    "token": ("401 for hf_abcdefghijklmnopqrst", "401 for ***"),
    "nothing": ("a ring bearer at 12:30? me@host, basic training", "a ring bearer at 12:30? me@host, basic training"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "shown"), SHOWN.values(), ids=SHOWN)
def test_what_looks_like_a_secret(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert message_line(text) == shown


ADDRESSES = (
    f"http://me:{PASSWORD}@127.0.0.1:9", f"me:{PASSWORD}@127.0.0.1:9", f"http://{PASSWORD}@h",
    f"http://me:{PASSWORD}/x@h", f"http://me:{PASSWORD}@x@h", f"http://me:{PASSWORD}#?x@h:bad", f"http://me:{PASSWORD} x@h",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("name", ["HF_ENDPOINT", "https_proxy", "ALL_PROXY"])
def test_what_the_environment_keeps_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, address: str
) -> None:
    monkeypatch.setenv(name, address)
    for text in (address, f"bad {address!r}: no", f"user {address.rpartition('@')[0]}"):
        assert PASSWORD not in without_known_secrets(text) + without_secrets(text)
    for finding in _hub():
        assert PASSWORD not in without_secrets(f"{finding.text} {finding.remedy}")


def test_tokens_and_escaped_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "my-own-token")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p%40ss%20word@h")
    shown = without_known_secrets("my-own-token p@ss word p%40ss%20word of me, the password")
    assert shown == "*** *** *** of me, the password"
    assert (
        json.loads(without_known_secrets(json_text({"a": "my-own-token"}, "utf-8")))["a"] == "***"
    )


def test_logs_and_their_tracebacks(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(2)
    try:
        raise ValueError(f"http://me:{PASSWORD}@h")
    except ValueError:
        logging.getLogger("httpx").info(
            "GET %s", f"http://me:{PASSWORD}@h/a?b={PASSWORD}", exc_info=True
        )
    finally:
        logs.set_up(0)
    shown = capsys.readouterr().err
    assert "GET http://h/a" in shown
    assert "ValueError: http://h" in shown
    assert PASSWORD not in shown


@pytest.mark.parametrize(
    ("options", "variables"),
    [((), {}), (("--debug", "-vv"), {"HF_DEBUG": "1", "HTTP_PROXY": f"http://me:{PASSWORD}@127.0.0.1:9"})],
    ids=["plain", "everything"],
)  # fmt: skip
def test_the_whole_program(
    environment: dict[str, str], options: tuple[str, ...], variables: dict[str, str]
) -> None:
    env = environment | variables | {
        "HF_ENDPOINT": f"http://me:{PASSWORD}@127.0.0.1:9", "HF_TOKEN": f"hf_{PASSWORD}",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "sana_cli", *options, "pull", "own/tiny", "--yes"],
        env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "cannot reach http://127.0.0.1:9" in done.stderr
    assert ("Traceback" in done.stderr, "Request " in done.stderr) == (bool(options), bool(options))
    assert PASSWORD not in done.stdout + done.stderr
