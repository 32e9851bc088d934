"""Turn text into token ids with the `tokenizers` library, whose input files may be anybody's. No
torch.

Its errors are bare exceptions, and a panic of its Rust code is a `PanicException`: not an
`Exception` at all, and printed on stderr before Python sees it. Here both become one SanaError.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quant.files import read_small
from sana_cli.checkpoints.model_files import is_panic, one_line, read_json, reading
from sana_cli.errors import SanaError, checkpoint_error

_STDERR = 2


class Tokenizer:
    """Text -> token ids, from `tokenizer.json` and the values of `tokenizer_config.json`."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """SanaError for a file that is no tokenizer."""
        from tokenizers import Tokenizer as Fast

        with reading(path, "is not a readable tokenizer"), _silent_panics():
            self._fast = Fast.from_buffer(read_small(path))  # `from_file` takes names in UTF-8 only
            self._fast.no_truncation()  # files may keep what they were last used with
            self._fast.no_padding()
        self.bos_token_id = self.id_of(settings.get("bos_token", "<bos>"))
        self.unk_token_id = self.id_of(settings.get("unk_token", "<unk>"))
        self._adds_bos = settings.get("add_bos_token") is True

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids, with BOS unless `add_special_tokens` is False. SanaError where the tokenizer fails."""
        try:
            with _silent_panics():
                ids: list[int] = self._fast.encode(text, add_special_tokens=add_special_tokens).ids
        except Exception as error:
            raise foreign_tokenizer(f"cannot read the prompt: {one_line(error)}") from error
        except BaseException as error:
            if not is_panic(error):
                raise
            raise foreign_tokenizer(f"cannot read the prompt: {one_line(error)}") from error
        bos = self.bos_token_id
        if add_special_tokens and self._adds_bos and bos is not None and ids[:1] != [bos]:
            return [bos, *ids]
        return ids

    def id_of(self, token: object) -> int | None:
        """Return the id of a token, None if there is none; files store special ones as a text or an object."""
        text = token.get("content") if isinstance(token, dict) else token
        try:
            return self._fast.token_to_id(text) if isinstance(text, str) else None
        except UnicodeError:  # half a character, which is no token
            return None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a folder of a model; SanaError if there is none that can be read."""
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.is_file():
        raise checkpoint_error(f"missing file {path}")
    return Tokenizer(path, read_json(settings) if os.path.lexists(settings) else {})


def foreign_tokenizer(problem: str) -> SanaError:
    return checkpoint_error(
        f"the tokenizer {problem}",
        hint="use the tokenizer/ folder that belongs to the text encoder",
    )


@contextmanager
def _silent_panics() -> Iterator[None]:
    """Rust writes a panic to stderr itself: for these milliseconds nothing reaches it."""
    try:
        kept, nowhere = os.dup(_STDERR), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # stderr is closed
        yield
        return
    try:
        os.dup2(nowhere, _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        for handle in (kept, nowhere):
            with suppress(OSError):
                os.close(handle)
