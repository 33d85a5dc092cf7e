"""``dpid app`` before there is a page; tests/app has the page."""

import socket
import sys
from types import SimpleNamespace

import pytest


@pytest.fixture
def port():
    """A port at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_without_gradio(command, monkeypatch):
    for name in [name for name in sys.modules if name == "gradio" or name.startswith("dpid.app.")]:
        monkeypatch.delitem(sys.modules, name)
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


def test_port_in_use(command):
    pytest.importorskip("gradio")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = command("app", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"dpid: host, port: found 127.0.0.1 and {port}: Address already in use; give another --port\n"


def test_loads_a_model_as_explain_does(command, monkeypatch, port):
    """But for what is asked of models of videos."""
    pytest.importorskip("gradio")
    asked = {}

    def from_pretrained(model, **given):
        asked.update(given)
        raise ValueError("model: none here")

    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", from_pretrained)
    flags = "--subfolder", "a", "--precision", "float32", "--size", 512, "--no-check"
    assert command("app", "--port", port, *flags) == (2, "", "dpid: model: none here\n")
    given = {"subfolder": "a", "precision": "float32", "size": 512, "check": False}
    assert asked == {"guidance": 1.0, **given}  # the default, and nothing that was left out
    assert "No such option: --frames" in command("app", "--frames", 8)[2]


def test_refuses_a_model_of_videos(command, monkeypatch, port):
    pytest.importorskip("gradio")
    of_videos = SimpleNamespace(denoiser=SimpleNamespace(frames=49))
    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", lambda *_, **__: of_videos)
    message = "dpid: model: found ./wan, which makes videos; the page takes models of pictures\n"
    assert command("app", "--port", port, "--model", "./wan") == (2, "", message)
