"""``dpid app``: a page on this machine that explains pictures."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import typer

from dpid.checks import count
from dpid.cli.parameters import CONTROL, Model, load, with_loading
from dpid.zoo import PROMPT


# Pictures of every layout are dropped on the page, and a picture for a ControlNet is laid out like one of them.
@partial(with_loading, without=("frames", *CONTROL))
def app(
    model: Model = "emoji",
    host: Annotated[
        str, typer.Option(help="Address to listen at. Any but 127.0.0.1 opens the page to others, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="From 1 to 65535.")] = 7860,
    **loading: Any,
) -> None:
    """Open a page on this machine: drop a picture, click the words of its prompt, and watch what each tells."""
    count(1, 65535)("port", port)
    try:
        from dpid.app import server
    except ImportError as error:
        raise RuntimeError(f'app: needs gradio ({error}); pip install "dpid[app]"') from error
    from dpid.app.studio import Studio
    from dpid.denoisers.loading import EMBEDDED, load_pipeline

    server.check_address(host, port)  # before the model is loaded
    explainer = load(model, loading)
    if explainer.denoiser.frames is not None:
        raise ValueError(f"model: found {model}, which makes videos; the page takes models of pictures")
    pipe = explainer.denoiser.family.pipe  # type: ignore[attr-defined]
    if pipe is None:  # the embedded model "emoji" is explained without its pipeline, which only makes pictures here
        pipe = load_pipeline(model, loading["device"])
    with suppress(KeyboardInterrupt):
        server.serve(Studio(explainer, pipe), host, port, PROMPT if model in EMBEDDED else "")
