"""`sana ps`: the servers that run here, and what they have in memory."""

from typing import Any

from sana_cli.terminal.options import JsonOption
from sana_cli.text import columns, counted, print_json, readable_memory, say


def ps(json: JsonOption = False) -> None:
    """Show running servers and the models in their memory."""
    from sana_cli.remote.connection import status_of
    from sana_cli.remote.state_file import running_servers

    found = [(server, status) for server in running_servers() if (status := status_of(server))]
    if json:
        servers = [
            {"address": f"http://{_shown(server.host)}:{server.port}", **status}
            for server, status in found
        ]
        print_json({"servers": servers})
        return
    if not found:
        say("no server runs; `sana serve` starts one")
    for server, status in found:
        say(f"http://{_shown(server.host)}:{server.port}  {_line(status)}")
        rows = [_row(model) for model in status["loaded"]]
        say(*(f"  {line}" for line in columns(rows)) if rows else ("  no model in memory",))


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _line(status: dict[str, Any]) -> str:
    doing = "drawing" if status["running"] else "idle"
    waiting = status["queue"]["waiting"]
    memory = readable_memory(status.get("resident_bytes", 0))
    return f"pid {status['pid']}  {doing}, {counted(waiting, 'request')} waiting  {memory}"


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    left = model["expires_in_s"]
    until = "stays" if left is None else f"{left:.0f} s left"
    memory = readable_memory(model["bytes"])
    # One model is here twice where requests asked for it with different options.
    options = ", ".join(f"{name} {value}" for name, value in model["options"].items())
    return model["model"], memory, model["device"], model["precision"], until, options
