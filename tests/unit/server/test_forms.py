"""Forms: texts are UTF-8 or refused, whatever the form says of itself; messages end in one full stop."""

from typing import Any

import pytest

PATH = "/v1/images/edits"


def form(
    prompt: bytes, *, name: bytes = b"prompt", file: bytes = b"a.png", end: bytes = b"--"
) -> bytes:
    parts = (b'name="%s"' % name, prompt), (b'name="image"; filename="%s"' % file, b"no picture")
    lines = [
        line for head, body in parts for line in (b"--x", b"Content-Disposition: form-data; " + head, b"", body)
    ]  # fmt: skip
    return b"\r\n".join([*lines, b"--x" + end, b""])


@pytest.mark.parametrize(
    "charset", ["", "; charset=latin-1", "; charset=rot13", "; charset=idna", "; Charset = utf-16"]
)
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (form("é".encode("latin-1")), "prompt is not UTF-8"),
        (form(b"a cat", name=b"pr\xe9mpt"), "the name of a field is not UTF-8"),
        (form(b"a cat", file=b"\xe9.png"), "the file name of image is not UTF-8"),
        (form("é 🐈".encode(), file="é.png".encode()), "é.png"),
    ],
    ids=["text", "name", "file", "utf-8"],
)  # fmt: skip
def test_texts_are_utf_8(server: Any, body: bytes, said: str, charset: str) -> None:
    kind = f"multipart/form-data; boundary=x{charset}"
    with server.client() as client:
        answer = client.post(PATH, content=body, headers={"Content-Type": kind})
    message = answer.json()["error"]["message"]
    assert (answer.status_code, said in message) == (400, True), message
    assert ".." not in message


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"x"), ("multipart/form-data; boundary=x", b"no form"),
        ("multipart/form-data; boundary=x", form(b"a cat", end=b"")), ("multipart/form-data; boundary=x", form(b"x" * 2**21)),
    ],
    ids=["no boundary", "no parts", "no end", "long text"],
)  # fmt: skip
def test_messages_on_damaged_forms_end_once(server: Any, kind: str, body: bytes) -> None:
    with server.client() as client:
        answer = client.post(PATH, content=body, headers={"Content-Type": kind})
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400
    assert message.endswith(".")
    assert ".." not in message, message


@pytest.mark.parametrize(
    ("name", "text"),
    [("negative_prompt", "7"), ("negative_prompt", "true"), ("pag", "2"), ("steps", "2")],
)
def test_text_that_looks_like_a_number(server: Any, name: str, text: str) -> None:
    """The file is the first thing that is wrong: the field was taken."""
    with server.client() as client:
        answer = client.post(
            PATH,
            data={"prompt": "a cat", name: text},
            files={"image": ("a.png", b"no picture")},
        )
    message = answer.json()["error"]["message"]
    assert (answer.status_code, "a.png" in message) == (400, True), message
