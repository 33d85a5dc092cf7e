"""The page in a browser, as a person uses it."""

import struct
import zlib

import pytest
from PIL import Image, ImageOps

import dpid
from dpid.app.views import seen
from dpid.results.word import verdict

pytestmark = pytest.mark.filterwarnings("default")  # what other libraries deprecate is not for users to mend


def upload(page, path):
    page.locator("input[type=file]").first.set_input_files(path)


def ask(page, picture, prompt, words, samples=None):
    """Fill the page in and press Explain."""
    upload(page, picture)
    page.get_by_text("A picture of 64 × 64 pixels").wait_for()
    page.get_by_label("Prompt").first.fill(prompt)
    for word in words:
        page.get_by_label(word, exact=True).check()
    if samples:
        page.get_by_text("More settings").click()
        number = page.get_by_label("number input for Samples")
        while number.input_value() != str(samples):  # where it is slow, it still takes its first value
            number.fill(str(samples))
            page.keyboard.press("Tab")
            page.wait_for_timeout(200)
    page.get_by_role("button", name="Explain").click()


def cells(page):
    """The numbers of the page's table: {what it is: text}."""
    rows = page.locator(".numbers tbody tr")
    return {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows.all()}


def download(page, what, folder):
    with page.expect_download() as found:
        page.get_by_role("button", name=f"Download the {what}").click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def test_explains_chosen_words_and_gives_the_result(visit, emoji, two_things, tmp_path):
    """The page shows, and hands out, what the explainer finds with the same samples."""
    picture, prompt, concepts = two_things
    page = visit()
    ask(page, picture, prompt, concepts, samples=64)
    page.get_by_text("Done: 64 samples").wait_for()
    loaded = dpid.PIDResult.load(download(page, "result", tmp_path))
    # The server's process may have another number of threads, which sum float32 in another order.
    expected = list(emoji.stream(picture, prompt, concepts, max_samples=64))[-1]
    assert loaded.metadata.samples == 64
    assert loaded.synergy.value == pytest.approx(expected.synergy.value, rel=1e-3)
    page.get_by_text("64 samples", exact=True).wait_for()  # in the table, which is drawn after the run
    assert cells(page)["synergy: told only together"] == str(loaded.synergy)
    assert "<h1" in download(page, "report", tmp_path).read_text(encoding="utf-8")
    assert page.evaluate("Object.keys(localStorage)") == []  # nothing of the picture stays in the browser


def choose(page, name, option):
    page.get_by_label(name).click()
    page.get_by_role("option", name=option, exact=True).click()


def count(page, pictures):
    """Wait until there are so many ``pictures`` of maps."""
    page.wait_for_function(f"document.querySelectorAll('.maps img').length == {pictures}")


def test_another_view_takes_no_evaluation(visit, two_things, tmp_path):
    """Numbers and figures change with the view, and the download with them; evaluations do not."""
    page = visit()
    ask(page, *two_things, samples=16)
    page.get_by_text("Done: 16 samples").wait_for()
    loaded = dpid.PIDResult.load(download(page, "result", tmp_path))
    page.get_by_text("Look at it in another way").click()
    view, told = ["rao-blackwell", "min", "image"], {str(loaded.synergy)}
    for i, name, option in (
        (0, "Estimator", "orthogonal"), (1, "Redundancy measure", "i_ccs_plugin"), (2, "Measured on", "pixel"),
    ):  # fmt: skip
        choose(page, name, option)
        view[i] = option
        wanted = str(seen(loaded, *view).synergy)
        page.get_by_role("row", name=f"synergy: told only together {wanted}").wait_for()
        told.add(wanted)
    assert len(told) == 4
    now = dpid.PIDResult.load(download(page, "result", tmp_path))
    assert [now.metadata.estimator, now.metadata.measure, now.metadata.level] == view
    assert now.metadata.unet_evaluations == loaded.metadata.unet_evaluations
    count(page, 3)
    choose(page, "Figure", "graph")
    count(page, 1)


def test_every_word_without_choosing(visit, emoji, two_things):
    """The page tells of each word what the explainer finds with the same samples; what is for chosen words is off."""
    picture, prompt, concepts = two_things
    page = visit()
    ask(page, picture, prompt, (), samples=16)
    page.get_by_text("Done: at most 16 samples").wait_for()
    words = emoji.words(picture, prompt, samples=16).words.values()
    for word in words:
        page.get_by_role("row", name=f"{word.text}: {verdict(word)} {word.alone} {word.given_rest}").wait_for()
    assert page.locator(".numbers tbody tr").count() == len(words)
    page.get_by_text("Look at it in another way").click()
    page.get_by_text("are for chosen words").wait_for()
    for name in ("Estimator", "Redundancy measure", "Measured on"):
        assert page.get_by_label(name).is_disabled()
    choose(page, "Figure", "words")
    count(page, 1)
    page.get_by_text("At which noise").click()
    page.get_by_text("Between log-SNR").wait_for()
    rest = page.get_by_label("Given the rest of the prompt")
    assert rest.is_disabled()
    page.get_by_label(concepts[0], exact=True).check()
    page.wait_for_function("box => !box.disabled", arg=rest.element_handle())


def test_makes_a_picture(visit):
    page = visit()
    page.get_by_role("button", name="Make a picture").click()
    page.get_by_text("Made by the model").wait_for()
    assert page.locator("#picture img").evaluate("image => image.naturalWidth") == 64


def test_stops_in_the_middle(visit, two_things):
    """What was found before is shown, and the next run begins as if nothing had been."""
    page = visit()
    ask(page, *two_things, samples=1024)
    page.get_by_text("of at most 1024 samples").wait_for()
    page.get_by_role("button", name="Stop").click()
    state = page.get_by_text("Stopped after")
    state.wait_for()
    samples = state.inner_text().split()[2]
    page.locator("thead").get_by_text(f"{samples} samples").wait_for()  # the last result, of all that was sampled
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("of at most 1024 samples").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()


def test_a_page_waits_for_another_until_that_is_gone(visit, two_things):
    """A run ends with its page: else the second would wait for a thousand samples of the first.

    Stop ends the wait, too.
    """
    first, second = visit(), visit()
    ask(first, *two_things, samples=1024)
    first.get_by_text("of at most 1024 samples").wait_for()
    ask(second, *two_things, samples=16)
    second.get_by_text("Waiting: the model works").wait_for()
    second.get_by_role("button", name="Stop").click()
    second.get_by_text("Stopped after 0 samples").wait_for()
    assert first.get_by_text("of at most 1024 samples").is_visible()  # it goes on
    second.get_by_role("button", name="Explain").click()
    second.get_by_text("Waiting: the model works").wait_for()
    first.goto("about:blank")
    second.get_by_text("Done: 16 samples").wait_for()


def keep(page):
    page.get_by_role("button", name="Keep this one").click()
    page.get_by_role("button", name="Kept: the next one").wait_for()


def compared(page):
    """The headings of columns and of maps, and which pictures stand beside them."""
    texts = [page.locator(place).all_inner_texts() for place in (".numbers thead th + th", ".maps h3")]
    pictures = [
        [image.get_attribute("src") for image in page.locator(f"{place} img.small").all()]
        for place in (".numbers thead", ".maps h3")
    ]
    assert pictures[0] == pictures[1]
    return [text.split("\n")[0].strip() for text in texts[0]], texts[1], pictures[0]


def test_compares_two_prompts_and_two_pictures(visit, two_things, tmp_path):
    """The second run is of another prompt, the third of another picture; each is told from the one before."""
    picture, prompt, concepts = two_things
    page, longer = visit(), f"{prompt} and a tree"
    ask(page, picture, prompt, concepts, samples=16)
    page.get_by_text("Done: 16 samples").wait_for()
    keep(page)
    page.get_by_label("Prompt").first.fill(longer)
    page.get_by_label("tree", exact=True).check()
    page.get_by_role("button", name="Explain").click()
    page.locator(".numbers thead").get_by_text(f"New: “{longer}”").wait_for()
    heads, maps, (new, kept) = compared(page)
    assert heads == maps == [f"New: “{longer}”", f"Kept: “{prompt}”"]
    assert new == kept
    assert page.locator(".maps .panels img").count() == 6
    page.get_by_text("Done: 16 samples").wait_for()
    keep(page)
    ImageOps.mirror(Image.open(picture)).save(tmp_path / "mirrored.png")
    page.get_by_role("button", name="Remove Image").click()
    upload(page, tmp_path / "mirrored.png")
    page.get_by_text("A picture of 64 × 64 pixels").wait_for()
    page.get_by_role("button", name="Explain").click()
    page.locator(".numbers thead").get_by_text(f"Kept: “{longer}”").wait_for()
    heads, maps, pictures = compared(page)
    assert heads == maps == [f"New: “{longer}”", f"Kept: “{longer}”"]
    assert pictures[1] == kept != pictures[0]


def bomb(path):
    """A PNG of a few bytes that says it has 40000 × 40000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)))


def test_errors_are_told_in_words(visit, tmp_path):
    page = visit()
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("picture: there is none yet").wait_for()
    (tmp_path / "text.png").write_text("cow")
    upload(page, tmp_path / "text.png")
    page.get_by_text("image: text.png cannot be read as a picture").wait_for()
    bomb(tmp_path / "bomb.png")
    upload(page, tmp_path / "bomb.png")
    page.get_by_text("image: bomb.png cannot be read as a picture").wait_for()
    page.get_by_label("cow", exact=True).check()
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("words: found 1, choose two to eight").wait_for()


def test_fits_a_phone(visit, two_things):
    """Nothing is wider than the window; what must be can be scrolled by itself."""
    page = visit(width=390)
    ask(page, *two_things, samples=16)
    page.get_by_text("Done: 16 samples").wait_for()
    page.get_by_role("button", name="Download the report").wait_for()
    for part in ("Look at it in another way", "At which noise"):
        page.get_by_text(part).click()
    told = page.get_by_text("Between log-SNR")
    told.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = told.inner_text()
    page.get_by_label("range slider for log-SNR").press("Home")
    page.wait_for_function("before => !document.body.innerText.includes(before)", arg=before)
    assert "Between log-SNR -" in told.inner_text()  # at its left end noise is louder than the picture
