"""How long the service of examples/ takes to answer, asked over HTTP on this machine by one client after another.

``python benchmarks/bench_service.py [--requests 200]``, on an idle machine. Every answer is compared with what the
explainer finds by itself, and the times with those of its bare calls, which alternate with the requests.
"""

import json
import socket
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Annotated

import ledger
import numpy as np
import typer
import uvicorn

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data" / "heldout"
IMAGE, PROMPT, CONCEPTS = DATA / "040.png", "a horse and a cake", ("horse", "cake")
_BOUNDARY = "bench-service"


def form() -> bytes:
    """The body of a request for the picture, its prompt and its concepts."""
    fields = [("prompt", PROMPT), *(("concepts", concept) for concept in CONCEPTS)]
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    image = f'{head}"image"; filename="picture.png"\r\nContent-Type: image/png\r\n\r\n'.encode() + IMAGE.read_bytes()
    return b"".join([*parts, image, f"\r\n--{_BOUNDARY}--\r\n".encode()])


def ask(connection: HTTPConnection, body: bytes) -> tuple[dict[str, object], float]:
    """The answer to a request and the seconds that it took; exits if the service refuses."""
    began = time.perf_counter()
    connection.request("POST", "/explain", body, {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"})
    response = connection.getresponse()
    text = response.read()
    took = time.perf_counter() - began
    if response.status != 200:
        raise SystemExit(f"the service answered {response.status}: {text.decode()}")
    return json.loads(text), took


def measure(service: object, connection: HTTPConnection, requests: int) -> tuple[list[float], list[float]]:
    """The seconds of ``requests`` answers and of as many bare calls, in turn."""
    answers, calls, body = [], [], form()
    for turn in range(requests + 3):  # the first three warm up
        found, answered = ask(connection, body)
        began = time.perf_counter()
        expected = service.explainer.explain(IMAGE, PROMPT, CONCEPTS)  # type: ignore[attr-defined]
        called = time.perf_counter() - began
        if found["synergy"] != expected.synergy.to_dict():
            raise SystemExit(f"the service answered {found['synergy']}, expected {expected.synergy.to_dict()}")
        if turn >= 3:
            answers.append(answered)
            calls.append(called)
    return answers, calls


def main(requests: Annotated[int, typer.Option(help="Requests that are timed, of which p99 wants 100.")] = 200) -> None:
    """Measure and record in the ledger."""
    sys.path.insert(0, str(ROOT / "examples"))
    import service

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(service.app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            answers, calls = measure(service, HTTPConnection(*listening.getsockname()), requests)
        finally:
            server.should_exit = True
            thread.join()
    rows = [
        {"case": case, "metric": f"time of an answer, {name}", "value": float(np.percentile(times, share)),
         "n": requests, "unit": "s"}
        for case, times in (("request over HTTP", answers), ("bare call", calls))
        for name, share in (("p50", 50), ("p99", 99))
    ]  # fmt: skip
    ledger.record("service", rows, "emoji")


if __name__ == "__main__":
    typer.run(main)
