"""The page of the embedded model in a process of its own, and a browser to open it.

Its tests take minutes: they run where DPID_BROWSER is set, as ``make pages`` does.
"""

import os
import shutil
import signal
import subprocess
import sys

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def address(free_port):
    """Where ``dpid app`` answers; ends with an interrupt, as a user ends it."""
    if not os.environ.get("DPID_BROWSER"):
        pytest.skip("takes minutes; run by make pages")
    pytest.importorskip("gradio")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", "from dpid.cli import main; main()", "app", "--port", str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell ignores in the background
    )  # fmt: skip
    said = server.stdout.readline()
    assert f"http://127.0.0.1:{port}/" in said, said + server.stdout.read()
    yield f"http://127.0.0.1:{port}/"
    server.send_signal(signal.SIGINT)
    rest, _ = server.communicate(timeout=60)
    assert (server.returncode, rest) == (0, ""), rest  # an error inside would have left a traceback


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, the machine's own."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(address, browser):
    """Opens the page in a window of its own, of ``width`` pixels; it may ask no other machine for anything."""
    opened = []

    def visit(width=1280):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(120_000)  # of a machine that is busy
        page.asked_for = []
        page.on("request", lambda request, found=page.asked_for: found.append(request.url))
        page.goto(address)
        page.get_by_role("button", name="Explain").wait_for()
        opened.append(page)
        return page

    yield visit
    for page in opened:
        own = (address, "about:", "data:", "blob:")
        assert [url for url in page.asked_for if not url.startswith(own)] == []
        page.close()
