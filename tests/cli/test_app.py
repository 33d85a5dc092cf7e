"""``dpid app`` before there is a page; tests/app has the page."""

import socket
import sys
from types import SimpleNamespace

import pytest


def test_without_gradio(command, monkeypatch):
    for name in [name for name in sys.modules if name == "gradio" or name.startswith("dpid.app.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("dpid.app.server", raising=False)  # where another test has imported it
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, out, err = command("app")
    assert (code, out) == (2, "")
    assert err.startswith("dpid: app: needs gradio")
    assert err.endswith('pip install "dpid[app]"\n')


@pytest.mark.parametrize("host", ["127.0..1", "x" * 64, "no-such-host.invalid"])
def test_a_host_that_is_none(command, host):
    """Of some names Python raises a ``UnicodeError``."""
    pytest.importorskip("gradio")
    code, out, err = command("app", "--host", host)
    assert (code, out) == (2, "")
    assert err == f"dpid: host: found {host}, which is no name or address of this machine\n"


@pytest.mark.parametrize("port", [0, 99999, "a"])
def test_a_port_that_is_none(command, port):
    code, out, err = command("app", "--port", port)
    assert (code, out) == (2, "")
    assert err.startswith(f"dpid: port: found {port!r}, expected a whole number")


def test_port_in_use(command):
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = command("app", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"dpid: host, port: found 127.0.0.1 and {port}: Address already in use; give another --port\n"


def test_refuses_a_model_of_videos(command, monkeypatch, free_port):
    pytest.importorskip("gradio")
    assert "No such option: --frames" in command("app", "--frames", 8)[2]
    of_videos = SimpleNamespace(denoiser=SimpleNamespace(frames=49))
    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", lambda *_, **__: of_videos)
    message = "dpid: model: found ./wan, which makes videos; the page takes models of pictures\n"
    assert command("app", "--port", free_port(), "--model", "./wan") == (2, "", message)
