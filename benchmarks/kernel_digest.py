"""A digest of all that decides a kernel's machine code: its source, what it calls, and how it is compiled.

Triton's own key also holds the line on which a kernel begins, so that each edit above it would make its rows stale.
"""

import hashlib
import inspect
import io
import tokenize
from collections.abc import Callable
from functools import cache
from typing import Any

_WITHOUT_MEANING = (tokenize.COMMENT, tokenize.NL)


def digest_of(function: Any, how: dict[str, Any]) -> str:
    """Digest a `triton.jit` function with all that it reads, and how it is compiled, of plain values; eight digits."""
    parts = [*_parts(function.fn), repr(sorted(how.items(), key=str))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


@cache
def _parts(function: Callable[..., Any]) -> list[str]:
    return sorted(_sources(function, {}).values())


def _sources(function: Callable[..., Any], found: dict[str, str]) -> dict[str, str]:
    """Collect the code of a function and of the `triton.jit` functions it calls, with the constants that they read, by name."""
    name = f"{function.__module__}.{function.__qualname__}"
    if name in found:
        return found
    found[name] = code_of(inspect.getsource(function))
    seen = inspect.getclosurevars(function)
    for key, value in sorted({**seen.globals, **seen.nonlocals}.items()):
        if hasattr(value, "fn") and hasattr(value, "arg_names"):  # of `triton.jit`
            _sources(value.fn, found)
        elif not (inspect.ismodule(value) or inspect.isroutine(value) or inspect.isclass(value)):
            found[f"{name} {key}"] = f"{key} = {value!r}"
    return found


def code_of(source: str) -> str:
    """Return what Python reads of a source: neither comments, nor empty lines, nor how far it is indented."""
    read = tokenize.generate_tokens(io.StringIO(inspect.cleandoc(source)).readline)
    return " ".join(
        tokenize.tok_name[token.type] if not token.string.strip() else token.string
        for token in read
        if token.type not in _WITHOUT_MEANING
    )
