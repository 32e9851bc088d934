"""Draw the README's terminal: run commands in a real terminal of 80 columns and keep what it shows as an SVG.

`python -m benchmarks.terminal_picture` writes `docs/images/terminal.svg`. A terminal emulator (pyte) reads what the
commands print, colours and the picture in half-blocks included, and rich draws its screen. Linux and macOS; needs
`pip install pyte`.
"""

import fcntl
import os
import pty
import struct
import sys
import tempfile
import termios
from pathlib import Path

IMAGES = Path(__file__).parents[1] / "docs" / "images"
COLUMNS, LINES = 80, 200  # nothing scrolls away
COMMANDS = (
    'sana generate "a panda" --seed 7 --show',
    "sana generate --from a-panda-7.png --steps 8 -o quick.png --dry-run",
)


def screen_of(commands: tuple[str, ...], folder: Path) -> "pyte.Screen":  # type: ignore[name-defined]  # noqa: F821
    """Run each command in a terminal, after its line with a prompt; return the screen when all have ended."""
    import pyte

    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    for command in commands:
        stream.feed(f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m\r\n".encode())
        for chunk in _run(command, folder):
            stream.feed(chunk)
    return screen


def _run(command: str, folder: Path) -> list[bytes]:
    """Return what one command writes to its terminal, in pieces."""
    words = f'exec "{sys.executable}" -m sana_cli{command.removeprefix("sana")}'
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "SANA_SERVER": "off"}  # fmt: skip
        os.execvpe("sh", ["sh", "-c", words], environment | {"COLUMNS": str(COLUMNS)})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 28, COLUMNS, 0, 0))
    chunks = []
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux says so when the command has ended
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        sys.exit(f"{command}: exit code {code}\n" + b"".join(chunks).decode(errors="replace"))
    return chunks


def svg(screen: "pyte.Screen") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Draw the screen as an SVG, without the empty lines at its end."""
    import io

    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    rows = [screen.buffer[number] for number in range(LINES)]
    while rows and not "".join(rows[-1][column].data for column in range(COLUMNS)).strip():
        rows.pop()
    for row in rows:
        line = Text(end="")
        for column in range(COLUMNS):
            cell = row[column]
            words = [
                "bold" if cell.bold else "", _colour(cell.fg),
                f"on {_colour(cell.bg)}" if cell.bg != "default" else "",
            ]  # fmt: skip
            line.append(cell.data or " ", style=" ".join(filter(None, words)))
        line.rstrip()
        console.print(line, soft_wrap=True)
    return console.export_svg(title="sana", unique_id="terminal")


def _colour(name: str) -> str:
    """pyte's name of a colour, or its six digits, as rich writes it."""
    if name == "default":
        return ""
    if len(name) == 6 and set(name) <= set("0123456789abcdef"):
        return f"#{name}"
    return name.replace("brown", "yellow")


def main() -> None:
    """Run the commands in a temporary folder and write the picture of the terminal."""
    with tempfile.TemporaryDirectory() as folder:
        text = svg(screen_of(COMMANDS, Path(folder)))
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / "terminal.svg").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
