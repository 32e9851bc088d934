"""Measure `sana serve`: overhead of the thin command, load over two models, clients that misbehave, signals.

`python -m benchmarks.serve overhead|load|clients|signals` prints one JSON document. Each starts servers of its own, in a
private runtime folder, with the built-in model and a quantized copy of it.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SANA = [sys.executable, "-m", "sana_cli"]
PICTURE = ["generate", "a cat", "--seed", "1", "--force", "--json"]
SMALL = {"width": 64, "height": 64, "steps": 4}


@dataclass(slots=True)
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    folder: Path

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        connection = HTTPConnection(str(parts.hostname), parts.port, timeout=300)
        headers = {"Content-Type": "application/json"}
        text = json.dumps(body) if body is not None else None
        connection.request(method, path, text, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, content

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("GET", "/v1/status")[1])
        return found

    def resident(self, what: str = "VmRSS") -> int:
        """Resident bytes now, or at most so far: "VmHWM"."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
        return 0


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """Run a server within the block, with torch imported."""
    environment = os.environ | {"SANA_RUNTIME": str(folder / "runtime")}
    command = [*SANA, "serve", "--port", "0", *options]
    with open(folder / "log", "a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    assert process.stdout is not None
    server = Server(process, process.stdout.readline().strip(), folder)
    try:
        while not server.status()["ready"]:
            time.sleep(0.1)
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def overhead(folder: Path, repeats: int) -> dict[str, Any]:
    """Time whole processes, with the server and here, one after the other."""
    environment = os.environ | {"SANA_RUNTIME": str(folder / "runtime")}

    def run(*options: str) -> tuple[float, float, bytes]:
        path = folder / "picture.png"
        started = time.perf_counter()
        done = subprocess.run(
            [*SANA, *PICTURE, "-o", str(path), *options],
            capture_output=True, env=environment, check=True,
        )  # fmt: skip
        whole = time.perf_counter() - started
        own = json.loads(done.stdout)["images"][0]["seconds"]["total"]
        return whole, whole - own, path.read_bytes()

    with serving(folder) as server:
        for _ in range(2):
            run()
        found: dict[str, list[tuple[float, float, bytes]]] = {"server": [], "local": []}
        for _ in range(repeats):
            found["server"].append(run("--server", "auto"))
            found["local"].append(run("--local"))
        assert server.status()["version"]
    same = {picture for runs in found.values() for *_, picture in runs}
    medians = {name: statistics.median(run[0] for run in runs) for name, runs in found.items()}
    return {
        "whole_s": medians,
        "beyond_own_seconds_s": statistics.median(run[1] for run in found["server"]),
        "times_as_fast": medians["local"] / medians["server"],
        "same_bytes": len(same) == 1,
    }


def load(folder: Path, requests: int, clients: int, cap: str) -> dict[str, Any]:
    """Draw with two models under a cap that holds one of them; every picture is compared with the command's."""
    other = quantized(folder)
    jobs = [(model, seed) for seed in range(8) for model in ("builtin", str(other))]
    expected = {job: alone(folder, *job) for job in jobs}
    waiting = random.Random(1).choices(jobs, k=requests)
    lock, wrong, errors, refused = threading.Lock(), [], [], [0]
    resident: list[int] = []

    def client(server: Server) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                model, seed = waiting.pop()
            body = {"prompt": "a cat", "seed": seed, "model": model, **SMALL}
            while (answer := server.call("POST", "/v1/images/generations", body))[0] == 429:
                refused[0] += 1
                time.sleep(0.2)
            if answer[0] != 200:
                errors.append(answer)
                continue
            import base64

            png = base64.b64decode(json.loads(answer[1])["data"][0]["b64_json"])
            if png != expected[model, seed]:
                wrong.append((model, seed))
            with lock:
                resident.append(server.resident())

    options = ("--models", f"builtin,{other}", "--max-memory", cap, "--queue", "12", "--quiet")
    with serving(folder, *options) as server:
        started = time.perf_counter()
        threads = [threading.Thread(target=client, args=(server,)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        evictions = server.status()["evictions"]
        waits = server.call("GET", "/metrics")[1].decode()
        peak, most = server.resident("VmHWM"), server.status()["max_memory_bytes"]
    tenth = max(1, len(resident) // 10)
    early, late = max(resident[tenth : 2 * tenth]), max(resident[-tenth:])
    return {
        "requests": requests, "seconds": seconds, "errors": len(errors), "first_error": str(errors[:1])[:300],
        "wrong": len(wrong), "answers_429": refused[0], "evictions": evictions,
        "peak_mib": peak / 2**20, "cap": cap, "within_cap": peak <= most, "drift": late / early - 1,
        "waits": [line for line in waits.splitlines() if line.startswith("sana_queue_wait_seconds_count")],
    }  # fmt: skip


def quantized(folder: Path) -> Path:
    """A second model: the built-in one in 8 bits."""
    path = folder / "eight"
    command = [*SANA, "quantize", "builtin", str(path), "--samples", "0", "--quiet"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def alone(folder: Path, model: str, seed: int) -> bytes:
    """The file that the command draws without a server."""
    path = folder / "alone.png"
    size, steps = f"{SMALL['width']}x{SMALL['height']}", str(SMALL["steps"])
    words = [
        "--size",
        size,
        "--steps",
        steps,
        "--seed",
        str(seed),
        "-m",
        model,
        "--force",
        "--local",
    ]
    command = [*SANA, "generate", "a cat", *words, "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path.read_bytes()


def clients(folder: Path, count: int) -> dict[str, Any]:
    """Clients that vanish at random, and clients that send slowly; the server draws for others all the while."""
    body = json.dumps(
        {"prompt": "a cat", "stream": True, "previews": True, **SMALL, "steps": 50}
    ).encode()
    head = (
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )

    def vanish(server: Server, seed: int) -> None:
        parts = urlsplit(server.url)
        with suppress(OSError), socket.create_connection((parts.hostname, parts.port or 0)) as sock:
            sock.sendall((head + body)[: random.Random(seed).randint(1, len(head + body))])
            time.sleep(random.Random(seed).random())

    def dribble(server: Server, seed: int) -> None:
        parts = urlsplit(server.url)
        with suppress(OSError), socket.create_connection((parts.hostname, parts.port or 0)) as sock:
            for byte in head + body:
                sock.sendall(bytes([byte]))
                time.sleep(0.05)

    with serving(folder, "--quiet", "--output", f"{folder}/pictures/") as server:
        threads = [
            threading.Thread(target=act, args=(server, seed))
            for seed in range(count) for act in (vanish, dribble)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        waits = []
        for _ in range(10):
            started = time.perf_counter()
            status, _ = server.call("POST", "/v1/images/generations", {"prompt": "a cat", **SMALL})
            waits.append((status, round(time.perf_counter() - started, 2)))
        for thread in threads:
            thread.join()
        time.sleep(2)
        left = server.status()["queue"]["waiting"]
    return {"clients": 2 * count, "answers_meanwhile": waits, "left_in_queue": left}


def signals(folder: Path, count: int) -> dict[str, Any]:
    """End a server that draws, in order and by force: no half picture stays, and the next one starts."""
    codes: dict[str, list[int]] = {"SIGTERM": [], "SIGKILL": []}
    times: list[float] = []
    output = folder / "pictures"
    for number in range(count):
        for kind in (signal.SIGTERM, signal.SIGKILL):
            with serving(folder, "--quiet", "--output", f"{output}/") as server:
                threads = [
                    threading.Thread(target=_draw_until_gone, args=(server,)) for _ in range(4)
                ]
                for thread in threads:
                    thread.start()
                time.sleep(0.5 + random.Random(number).random())
                started = time.perf_counter()
                server.process.send_signal(kind)
                codes[kind.name].append(server.process.wait(60))
                if kind == signal.SIGTERM:
                    times.append(time.perf_counter() - started)
                for thread in threads:
                    thread.join()
    from PIL import Image

    whole = 0
    for path in output.glob("*.png"):
        with Image.open(path, formats=("PNG",)) as image:
            image.load()
        whole += 1
    strays = [path.name for path in output.iterdir() if path.suffix != ".png"]
    return {
        "codes": {name: sorted(set(found)) for name, found in codes.items()},
        "longest_end_s": max(times), "whole_pictures": whole, "strays": strays[:10],
    }  # fmt: skip


def _draw_until_gone(server: Server) -> None:
    with suppress(OSError, HTTPException):
        while server.call("POST", "/v1/images/generations", {"prompt": "a cat", **SMALL})[0] == 200:
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "load", "clients", "signals"])
    parser.add_argument("--repeats", type=int, default=9, help="runs of each kind: overhead")
    parser.add_argument("--requests", type=int, default=1000, help="load")
    parser.add_argument("--clients", type=int, default=16, help="load")
    parser.add_argument("--cap", default="362MiB", help="load; this one holds one of the models")
    parser.add_argument(
        "--count",
        type=int,
        default=20,
        help="signals of each kind; clients of each kind: 5 times that",
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "overhead": lambda: overhead(folder, asked.repeats),
            "load": lambda: load(folder, asked.requests, asked.clients, asked.cap),
            "clients": lambda: clients(folder, 5 * asked.count),
            "signals": lambda: signals(folder, asked.count),
        }
        print(json.dumps({"measure": asked.what, **measures[asked.what]()}))


if __name__ == "__main__":
    main()
