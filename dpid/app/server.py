"""Serves the page on this machine: nothing is sent to other machines, and nothing is fetched from them."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from itertools import product
from pathlib import Path
from threading import Event

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dpid.app.page import build
from dpid.app.studio import Studio
from dpid.report.page import render

_LARGEST = "100mb"  # of an upload
_POLICY = b"default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; object-src 'none'; frame-ancestors 'self'"
_FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # of the reader's machine
_FILLS = {"primary": ("*primary_700", "*primary_800"), "cancel": ("#b91c1c", "#991b1b")}  # of buttons; under a mouse


def theme() -> gr.themes.Default:
    """Colours and fonts of the page: gradio's, but every text has a contrast of 4.5 to what it is on (WCAG AA)."""
    colours = {"body_text_color_subdued": "*neutral_500"}  # in the light: what is said below a name is too pale else
    for kind, fills in _FILLS.items():
        for part, mode in product(("background_fill", "border_color"), ("", "_dark")):
            names = (f"button_{kind}_{part}{hover}{mode}" for hover in ("", "_hover"))
            colours |= dict(zip(names, fills, strict=True))
    return gr.themes.Default(**_FONTS).set(**colours)


class Alone:
    """Tells browsers to load nothing from elsewhere, whatever the page or a library asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, with the policy among its headers."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, with_policy)


def check_address(host: str, port: int) -> None:
    """Raise ``ValueError`` unless a server can listen at ``port`` of ``host``."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"host: found {host}, which is no name or address of this machine") from error
    except OSError as error:
        raise ValueError(f"host, port: found {host} and {port}: {error.strerror}; give another --port") from error


def _end_as_by_an_interrupt() -> None:
    """Let what ends a service, or closes its terminal, raise ``KeyboardInterrupt``, too; not where it is ignored.

    By default such a signal ends the process at once, and its files stay.
    """
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)


def serve(studio: Studio, host: str, port: int, prompt: str) -> None:
    """Answer at ``port`` of ``host`` until an interrupt, with ``prompt`` already written on the page.

    SIGTERM and SIGHUP are interrupts, too.
    """
    _end_as_by_an_interrupt()
    with tempfile.TemporaryDirectory(prefix="dpid-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads, which are gone with the page, too
        # Else the browser keeps every map, and writes all that it keeps again at each, which takes it seconds.
        os.environ["GRADIO_RUN_HISTORY"] = "False"  # older releases have no argument for it
        page = build(studio, Path(folder), prompt)
        _, url, _ = page.launch(
            server_name=host, server_port=port, share=False, quiet=True, show_error=True, max_file_size=_LARGEST,
            ssr_mode=False, pwa=False, mcp_server=False, footer_links=[], prevent_thread_lock=True,
            theme=theme(), css=render("app/page.css"),
            app_kwargs={"middleware": [Middleware(Alone)]},
        )  # fmt: skip
        print(f"The page is at {url}; Ctrl+C ends it.", flush=True)
        # Not closed: that waits for pages that are open, and the process ends anyway.
        Event().wait()
