"""The page itself: what is on it, and what happens when something is pressed."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from shutil import rmtree
from time import monotonic
from typing import Any

import gradio as gr

from dpid.app.noise import over_noise
from dpid.app.studio import Studio, opened, words_of
from dpid.app.views import FILES, KINDS, maps_of, seen, table, write_file
from dpid.errors import told
from dpid.estimation.estimators import ESTIMATORS
from dpid.options import LEVELS, Options
from dpid.pid.decomposition import picture_measures
from dpid.results.result import PIDResult
from dpid.results.words import Result

_STORED = 86400  # seconds that a file stays on the disk after it was last used
_WAITING = 16  # runs at a time, of which one has the model; each takes one of gradio's forty threads
_PAUSE = 2.0  # seconds between two drawings of a run, each of which takes half a second of the processor
_KEEP, _KEPT = "Keep this one, to compare with the next", "Kept: the next one will stand beside it"
_DOWNLOAD = """(file) => {
    if (!file) return;
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name;
    link.click();
}"""
_WORDS = "Choose none to ask what each word does; or two to eight, to see what they tell together."
_FOR_CHOSEN = "Estimator, redundancy measure and level are for chosen words: this is about every word."


@dataclass(frozen=True)
class Form:
    """The left side of the page: what is asked."""

    picture: gr.Image
    make: gr.Button
    prompt: gr.Textbox
    words: gr.CheckboxGroup
    phrases: gr.Textbox
    context: gr.Checkbox
    samples: gr.Slider
    explain: gr.Button
    stop: gr.Button
    status: gr.HTML
    progress: gr.HTML


@dataclass(frozen=True)
class Shown:
    """The right side of the page: the answer."""

    maps: gr.HTML
    numbers: gr.HTML
    keep: gr.Button
    kind: gr.Dropdown
    estimator: gr.Dropdown
    measure: gr.Dropdown
    level: gr.Dropdown
    note: gr.HTML
    noise: gr.Accordion
    logsnr: gr.Slider
    profile: gr.HTML
    files: dict[str, gr.Button]
    written: gr.DownloadButton


def said(error: Exception) -> str:
    """What is said of ``error`` on the page, as HTML; of one that is a fault of dpid, the terminal has more."""
    message, code = told(error)
    if code == 1:
        traceback.print_exc()
    return f'<span class="failed">{escape(message)}</span>'


def build(studio: Studio, folder: Path, prompt: str = "") -> gr.Blocks:
    """The page for the model of ``studio``, with ``prompt`` already written; downloads are written into ``folder``."""
    model = studio.explainer.denoiser.name
    with gr.Blocks(title="dpid", analytics_enabled=False, delete_cache=(3600, _STORED)) as page:
        gr.Markdown(
            "# Which word put what into this picture?\n"
            "dpid measures what each word of a prompt tells about a picture, alone and together with other words. "
            f"The model is **{escape(model)}**."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                form = _form(prompt)
            with gr.Column(scale=3, min_width=320):
                shown = _shown(studio)
        _connect(Handlers(studio, folder), form, shown, page)
    return page


def _form(prompt: str) -> Form:
    """The left side, in the order in which it is used."""
    boxes = _choices(words_of(prompt))
    return Form(
        prompt=gr.Textbox(prompt, label="Prompt", info="What the picture shows.", max_length=2000),
        picture=_upload(),
        make=gr.Button("Make a picture of this prompt"),
        words=gr.CheckboxGroup(boxes, label="Words", info=_WORDS),
        **_more(),
        **_buttons(),
        status=gr.HTML("Drop a picture, or let the model make one."),
        progress=gr.HTML(" ", elem_id="progress"),
    )


def _upload() -> gr.Image:
    """A field for a picture whose file is passed on as it is, for :func:`dpid.images.open_image` to check."""
    field = gr.Image(
        label="Picture", type="filepath", sources=["upload", "clipboard"], format="png", height=260, elem_id="picture"
    )
    field.preprocess = lambda payload: payload and payload.path
    return field


def _buttons() -> dict[str, gr.Button]:
    with gr.Row():
        return {
            "explain": gr.Button("Explain", variant="primary", min_width=120),
            "stop": gr.Button("Stop", variant="stop", interactive=False, min_width=120),
        }


def _more() -> dict[str, Any]:
    """The settings of a run that most people leave as they are."""
    with gr.Accordion("More settings", open=False):
        return {
            "phrases": gr.Textbox(
                "",
                label="Other phrases of the prompt",
                info="To choose what is not among the words, with commas between: and, red apple.",
            ),
            "context": gr.Checkbox(
                label="Given the rest of the prompt",
                info="For chosen words: what they tell to somebody who knows the rest of the prompt already.",
                interactive=False,
            ),
            "samples": gr.Slider(
                16, 1024, 256, step=16, label="Samples", info="At most so many; more make the errors smaller."
            ),
        }


def _shown(studio: Studio) -> Shown:
    """The right side; all but the figure of the maps has its place below."""
    grid = studio.explainer.denoiser.logsnr_grid
    low, high = math.ceil(10 * grid[0]) / 10, math.floor(10 * grid[-1]) / 10
    maps = gr.HTML(elem_classes="maps")
    numbers = gr.HTML(elem_classes="numbers")
    keep = gr.Button(_KEEP, visible=False)
    with gr.Accordion("Look at it in another way", open=False, elem_id="views"):
        with gr.Row():
            kind = gr.Dropdown(list(KINDS[PIDResult]), label="Figure")
            estimator = gr.Dropdown(list(ESTIMATORS), value=Options.estimator, label="Estimator")
            measure = gr.Dropdown(list(picture_measures()), value=Options.measure, label="Redundancy measure")
            level = gr.Dropdown(list(LEVELS), value=Options.level, label="Measured on")
        note = gr.HTML()
    with gr.Accordion("At which noise do the words matter?", open=False) as noise:
        logsnr = gr.Slider(low, high, round((low + high) / 2, 1), step=0.1, label="log-SNR",
                           info="Left: nearly all noise, where layout is decided; right: details. "
                                "The maps above are of all log-SNRs together.")  # fmt: skip
        profile = gr.HTML(elem_classes="numbers")
    with gr.Row():
        files = {what: gr.Button(f"Download the {what}", visible=False, min_width=100) for what in FILES}
        written = gr.DownloadButton(visible="hidden")
    return Shown(maps, numbers, keep, kind, estimator, measure, level, note, noise, logsnr, profile, files, written)


def _choices(words: Sequence[str]) -> list[tuple[str, str]]:
    """What is on the buttons of ``words``, and what each stands for."""
    return [(word.replace("#", " "), word) for word in words]


def _concepts(words: Sequence[str], phrases: str) -> list[str]:
    """The chosen ``words``, and the ``phrases`` between commas."""
    return [*words, *(phrase.strip() for phrase in phrases.split(",") if phrase.strip())]


def _compared(result: Result, kept: Result | None) -> list[Result]:
    """What is shown: the newest result, and the one that is kept, if that is another."""
    return [result] if kept is None or kept == result else [result, kept]


def _connect(handlers: Handlers, form: Form, shown: Shown, page: gr.Blocks) -> None:
    """Let every control do what it says.

    Only runs go through gradio's queue: it closes the connection to a page when nothing of the page is queued any more,
    and what is queued at that moment would be answered to nobody.
    """
    result = gr.State()
    one_model: dict[str, Any] = {
        "concurrency_id": "model", "concurrency_limit": _WAITING, "show_progress_on": form.progress
    }  # fmt: skip
    local: dict[str, Any] = {"queue": False, "show_progress": "hidden"}
    form.prompt.change(handlers.words, [form.prompt, form.words], form.words, trigger_mode="always_last", **local)
    chosen = [form.words, form.phrases]
    gr.on([part.change for part in chosen], handlers.given, chosen, form.context, trigger_mode="always_last", **local)
    form.picture.upload(handlers.check, form.picture, [form.picture, form.status], **local)
    question = [form.picture, form.prompt, form.words, form.phrases, form.context, form.samples]
    buttons = [form.explain, form.make, form.stop]
    making = form.make.click(handlers.start, None, [*buttons, form.status], **local)
    making = making.then(handlers.make, form.prompt, [form.picture, form.status], **one_model)
    making.then(handlers.finish, None, buttons, **local)
    running = form.explain.click(handlers.start, None, [*buttons, form.status], **local)
    running = running.then(handlers.explain, question, [result, form.status], **one_model)
    running.then(handlers.finish, None, buttons, **local)
    # Said by the page itself: an answer of the server could come after what the run says at its end.
    form.stop.click(None, None, form.status, js="() => 'Stopping …'")
    form.stop.click(handlers.stop, None, None, **local)
    page.unload(handlers.leave)
    _connect_shown(handlers, result, shown, form.status, local)


def _connect_shown(handlers: Handlers, result: gr.State, shown: Shown, status: gr.HTML, local: dict[str, Any]) -> None:
    """Connect the controls beside the maps, so that ``result`` is shown and downloaded as they say.

    ``local`` has the options of an event that does not go through the queue.
    """
    kept, offered, looked_at = gr.State(), gr.State(), gr.State(False)
    views = [shown.estimator, shown.measure, shown.level]
    draw = {
        "fn": handlers.draw, "inputs": [result, kept, shown.kind, *views], **local,
        "outputs": [shown.maps, shown.numbers, shown.keep, *shown.files.values()],
    }  # fmt: skip
    over = {
        "fn": handlers.profile, "inputs": [result, kept, *views, shown.logsnr, looked_at], **local,
        "outputs": shown.profile,
    }  # fmt: skip
    for what, button in shown.files.items():
        which = [gr.State(what), result, shown.kind, *views]
        written = button.click(handlers.file, which, [shown.written, status], **local)
        written.then(None, shown.written, js=_DOWNLOAD)
    ways = [offered, shown.kind, *views, shown.note]
    newest = {"trigger_mode": "always_last"}
    offer = {"fn": handlers.offer, "inputs": [result, kept, offered, shown.kind], "outputs": ways, **newest, **local}
    changed = [view.input for view in (shown.kind, *views)]
    # While samples come, what is drawn is the newest result, and those that drawing is too slow for are left out. It is
    # drawn when the figure that was chosen is one of those that there are of it.
    result.change(**offer).then(**newest, **draw)
    gr.on(changed, **newest, **draw)
    gr.on([result.change, *changed, shown.logsnr.change], **newest, **over)
    shown.noise.expand(lambda: True, None, looked_at, **local).then(**over)
    shown.noise.collapse(lambda: False, None, looked_at, **local)
    shown.keep.click(lambda now: now, result, kept, **local).then(**offer).then(**draw).then(**over)


class Handlers:
    """What the page's controls call, with the errors in words."""

    def __init__(self, studio: Studio, folder: Path) -> None:
        self._studio, self._folder = studio, folder

    def words(self, prompt: str, chosen: list[str]) -> Any:
        """The words of ``prompt`` to choose from; those that were chosen stay so."""
        words = words_of(prompt)
        kept = [word for word in chosen if word in words]
        # Where all of them stay, nothing is said of them: others may have been clicked meanwhile.
        return gr.CheckboxGroup(_choices(words), **({} if kept == chosen else {"value": kept}))

    def given(self, words: list[str], phrases: str) -> gr.Checkbox:
        """Whether the rest of the prompt may be given: with chosen words alone."""
        return gr.Checkbox(interactive=bool(_concepts(words, phrases)))

    def check(self, picture: str | None) -> tuple[Any, str]:
        """The picture again, if it can be explained, and its size."""
        try:
            size = "{} × {}".format(*opened(picture).size)
        except Exception as error:
            return None, said(error)
        return gr.skip(), f"A picture of {size} pixels. Choose words, and press Explain."

    def start(self, request: gr.Request) -> tuple[Any, ...]:
        """Let a run begin, which Stop may end from now on, also while it waits for others."""
        alone = self._studio.start(request.session_hash)
        status = "Starting …" if alone else "Waiting: the model works for another page first."
        off = gr.Button(interactive=False)
        return off, off, gr.Button(interactive=True), status

    def finish(self) -> tuple[gr.Button, ...]:
        """The buttons after a run."""
        on = gr.Button(interactive=True)
        return on, on, gr.Button(interactive=False)

    def stop(self, request: gr.Request) -> None:
        """End the run of this page."""
        self._studio.stop(request.session_hash)

    def leave(self, request: gr.Request) -> None:
        """End the run of a page that is gone."""
        self._studio.stop(request.session_hash)
        rmtree(self._folder_of(request), ignore_errors=True)

    def _folder_of(self, request: gr.Request) -> Path:
        """The folder of a page's files: the name of a session is the client's, who could name another folder by it."""
        return self._folder / sha256(str(request.session_hash).encode(errors="replace")).hexdigest()

    def make(
        self, prompt: str, request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008, as of explain
    ) -> tuple[Any, str]:  # fmt: skip
        """A picture that the model makes, unless it is stopped, and how."""
        try:
            made, state = self._studio.make(request.session_hash, prompt, progress)
        except Exception as error:
            return gr.skip(), said(error)
        return gr.skip() if made is None else made, state

    def explain(
        self, picture: str | None, prompt: str, words: list[str], phrases: str, context: bool, samples: int,
        request: gr.Request, progress: gr.Progress = gr.Progress(),  # noqa: B008, how gradio is asked for one
    ) -> Iterator[tuple[Any, str]]:  # fmt: skip
        """Results while samples come, and how far the run is."""
        asked = (request.session_hash, picture, prompt, _concepts(words, phrases), context, samples, progress)
        result, drawn = None, -math.inf
        try:
            for result, state in self._studio.explain(*asked):
                due = monotonic() - drawn > _PAUSE or not self._studio.running(request.session_hash)
                if due:
                    drawn = monotonic()
                yield (result if due and result is not None else gr.skip()), state
        except Exception as error:  # raised, it would leave the buttons as they are while it runs
            yield (gr.skip() if result is None else result), said(error)

    def offer(self, result: Result | None, kept: Result | None, offered: Any, kind: str) -> tuple[Any, ...]:
        """What there is to choose from for the results on the page, where that is not what is ``offered`` already."""
        ways = type(result).__name__, PIDResult in (type(result), type(kept))
        if result is None or ways == offered:  # else a list that somebody has opened would close at every drawing
            return tuple(gr.skip() for _ in range(6))
        kinds, active = KINDS[type(result)], ways[1]
        figure = gr.Dropdown(list(kinds), value=kind if kind in kinds else kinds[0])
        return ways, figure, *(gr.Dropdown(interactive=active) for _ in range(3)), "" if active else _FOR_CHOSEN

    def draw(self, result: Result | None, kept: Result | None, kind: str, *view: str) -> tuple[Any, ...]:
        """The maps and the numbers of the newest result, and of the one that is kept; and what can be done with it."""
        if result is None:
            return tuple(gr.skip() for _ in range(3 + len(FILES)))
        try:
            views = [seen(each, *view) for each in _compared(result, kept)]
            maps, numbers = maps_of(views, kind), table(views)
        except Exception as error:
            maps, numbers = said(error), ""
        keep = gr.Button(_KEPT if kept == result else _KEEP, visible=True)
        return maps, numbers, keep, *(gr.Button(visible=True) for _ in FILES)

    def profile(
        self, result: Result | None, kept: Result | None, estimator: str, measure: str, level: str, logsnr: float,
        looked_at: bool,
    ) -> Any:  # fmt: skip
        """The figures over log-SNR and their numbers at ``logsnr``, if they are ``looked_at``."""
        if result is None or not looked_at:
            return gr.skip()
        try:
            return over_noise([seen(each, estimator, measure, level) for each in _compared(result, kept)], logsnr)
        except Exception as error:
            return said(error)

    def file(
        self, what: str, result: Result, kind: str, estimator: str, measure: str, level: str, request: gr.Request
    ) -> tuple[str | None, Any]:
        """The path of a file to download, of the result as it is shown; of every page there are only its last ones."""
        folder = self._folder_of(request)
        try:
            folder.mkdir(exist_ok=True)
            return str(write_file(seen(result, estimator, measure, level), what, folder, kind)), gr.skip()
        except Exception as error:
            return None, said(error)
