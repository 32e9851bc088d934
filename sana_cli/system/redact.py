"""Text without the secrets of this machine: passwords in addresses, queries, tokens. No imports of ours.

What is shown anywhere (errors, logs, tracebacks, reports) passes through here once, at the place where it is shown.
"""

import os
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

_HIDDEN = "***"
_SHORTEST = 4  # characters of a secret that is looked for outside of addresses, too
_ADDRESSES = (
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "FTP_PROXY",
    "HF_INFERENCE_ENDPOINT",
)
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "HF_OIDC_TOKEN")

_SCHEME = r"(\b[a-z][a-z0-9+.-]+:/{1,2}"  # one slash is left where a path was made of an address
# Compiled where they are needed: most texts have nothing of it, and compiling takes longer than printing.
_USERINFO = rf"{_SCHEME})[^\s/?#\"'<>]*@"
_QUERY = rf"{_SCHEME}[^\s?\"'<>]*)\?[^\s\"'<>]*"
_BEARER = r"(\b(?:bearer|basic)\s+)[\w.~+/=-]{20,}"
_TOKEN = r"\bhf_[A-Za-z0-9]{16,}"


def without_secrets(text: str) -> str:
    """Return the text without tokens, and without userinfo and query of any address in it."""
    text = without_known_secrets(text)
    if ":/" in text:
        text = re.sub(_USERINFO, r"\1", text, flags=re.IGNORECASE)
        text = re.sub(_QUERY, r"\1", text, flags=re.IGNORECASE)
    if any(word in text.lower() for word in ("bearer", "basic")):
        text = re.sub(_BEARER, rf"\1{_HIDDEN}", text, flags=re.IGNORECASE)
    return re.sub(_TOKEN, _HIDDEN, text) if "hf_" in text else text


def without_known_secrets(text: str) -> str:
    """Return the text without the environment's secrets; every other word stays, for texts that
    people wrote.
    """
    for secret in _secrets(os.environ):
        text = text.replace(secret, _HIDDEN)
    return text


def _secrets(environment: Mapping[str, str]) -> list[str]:
    """List the secrets in the environment, in each spelling that a library may show, longest first."""
    found: set[str] = set()
    for name, value in environment.items():
        if name.upper() in _TOKENS:
            found |= {value, value.strip()}
        elif name.upper() in _ADDRESSES and "@" in value:
            # Passwords with a slash or an at sign in them are common, and no parser agrees on them.
            userinfo = value.rpartition("@")[0].rpartition("://")[2]
            password = userinfo.partition(":")[2]
            found |= {userinfo, password, unquote(userinfo), unquote(password)}
            found |= {quote(userinfo, safe=":"), quote(password, safe="")}
    return sorted((s for s in found if len(s) >= _SHORTEST), key=len, reverse=True)
