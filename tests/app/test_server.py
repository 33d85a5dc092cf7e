"""What serves the page: its files are gone when it ends, however it is ended."""

import os
import signal
import subprocess
import sys

import pytest

# The page of a model that is never asked; the process ends as that of the command line does.
SERVE = """
import os, sys
from types import SimpleNamespace as Stub
from dpid.app.server import serve
studio = Stub(explainer=Stub(denoiser=Stub(name="none", logsnr_grid=[-5.0, 5.0])))
try:
    serve(studio, "127.0.0.1", int(sys.argv[1]), "")
except KeyboardInterrupt:
    os._exit(0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(("end", "ignored"), [("SIGHUP", None), ("SIGTERM", "SIGHUP")])
def test_uploads_are_deleted_at_the_end(tmp_path, free_port, end, ignored):
    """A signal that the process was started to ignore, as by nohup, ends nothing."""
    pytest.importorskip("gradio")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=ignored and (lambda: signal.signal(getattr(signal, ignored), signal.SIG_IGN)),
    )  # fmt: skip
    said = server.stdout.readline()
    assert f"http://127.0.0.1:{port}/" in said, said + server.stdout.read()
    (folder,) = tmp_path.glob("dpid-app-*")
    (folder / "upload.png").touch()
    if ignored:
        server.send_signal(getattr(signal, ignored))
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(1)
    server.send_signal(getattr(signal, end))
    rest, _ = server.communicate(timeout=60)
    assert (server.returncode, rest) == (0, "")
    assert not folder.exists()


def luminance(colour):
    """The relative luminance of a colour "#rrggbb", by WCAG 2.2."""
    parts = (value / 255 for value in bytes.fromhex(colour.removeprefix("#")))
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("mode", ["", "_dark"])
@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("block_info_text_color", "block_background_fill"),
        ("block_label_text_color", "block_background_fill"),
        *((f"button_{kind}_text_color{on}", f"button_{kind}_background_fill{on}")
          for kind in ("primary", "cancel", "secondary") for on in ("", "_hover")),
    ],
)  # fmt: skip
def test_text_stands_out_from_what_it_is_on(text, back, mode):
    pytest.importorskip("gradio")
    from dpid.app.server import theme

    made = theme()

    def colour(name):
        """What a variable of the theme, which may name another one, is in this mode."""
        value = getattr(made, name + mode, None) or getattr(made, name)
        while value.startswith("*"):
            value = getattr(made, value[1:] + mode, None) or getattr(made, value[1:])
        return {"white": "#ffffff", "black": "#000000"}.get(value, value)

    dark, light = sorted(map(luminance, (colour(text), colour(back))))
    assert (light + 0.05) / (dark + 0.05) >= 4.5
