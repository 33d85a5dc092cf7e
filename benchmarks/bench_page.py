"""How long a run of ``dpid app`` takes in Chromium, beside a bare call, and how soon after Stop it has ended.

``python benchmarks/bench_page.py [--runs 9]``, on an idle machine. Page and call explain two words of the same picture
with 256 samples, in turns.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import ledger
import numpy as np
import typer
from playwright.sync_api import Page, sync_playwright

import dpid

IMAGE = Path(__file__).parents[1] / "tests" / "data" / "heldout" / "040.png"
PROMPT, CONCEPTS = "a cow and a giraffe", ("cow", "giraffe")  # which the page has already; the picture's are others
SAMPLES = 256
CASES = "a run of the page", "a bare call", "from Stop to the end of a run"


@contextmanager
def served() -> Iterator[str]:
    """A context in which the page is served, in another process; its value is the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from dpid.cli import main; main()", "app", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            server.stdout.readline()  # that it listens
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def explain(page: Page, address: str) -> float:
    """Ask the page as a person does; returns when Explain was pressed."""
    page.goto(address)
    page.locator("input[type=file]").first.set_input_files(IMAGE)
    page.get_by_text("A picture of").filter(has_text="pixels").wait_for()
    for concept in CONCEPTS:
        page.get_by_label(concept, exact=True).check()
    page.get_by_role("button", name="Explain").click()
    return time.perf_counter()


def measure(page: Page, address: str, explainer: dpid.Explainer) -> tuple[float, float, float]:
    """The seconds of ``CASES``."""
    began = explain(page, address)
    page.get_by_text(f"Done: {SAMPLES} samples").wait_for()
    ran = time.perf_counter()
    explainer.explain(IMAGE, PROMPT, CONCEPTS, samples=SAMPLES)
    called = time.perf_counter()
    explain(page, address)
    page.get_by_text(f"of at most {SAMPLES} samples").wait_for()
    stopped = time.perf_counter()
    page.get_by_role("button", name="Stop").click()
    page.locator("button:enabled", has_text="Explain").wait_for()
    return ran - began, called - ran, time.perf_counter() - stopped


def main(runs: Annotated[int, typer.Option(help="Runs that are timed, after one that is not.")] = 9) -> None:
    """Measure and record in the ledger."""
    explainer = dpid.Explainer.from_pretrained("emoji")
    with served() as address, sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"]).new_page()
        page.set_default_timeout(120_000)
        times = np.array([measure(page, address, explainer) for _ in range(runs + 1)])[1:]
    rows: list[dict[str, object]] = []
    for case, seconds in zip(CASES, times.T, strict=True):
        low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
        rows.append({"case": f"two words, {SAMPLES} samples", "metric": f"{case}, median", "value": middle, "low": low,
                     "high": high, "n": runs, "unit": "s"})  # fmt: skip
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    rows.append({"case": f"two words, {SAMPLES} samples", "metric": "page / bare call, median", "value": ratio,
                 "n": runs, "unit": "x"})  # fmt: skip
    ledger.record("page", rows, "emoji")


if __name__ == "__main__":
    typer.run(main)
