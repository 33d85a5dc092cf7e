"""The pages of measurements, where a figure was measured and where it was not, by made-up rows of the ledger."""

import ledger
import measurements
import pytest

GPU = "NVIDIA H100 80GB HBM3"
SLOWEST = "max-autotune-no-cudagraphs"
UNET = {
    "ours: evaluations a second": 600, "ITD / ours": 9, "batched / ours": 1.5, "batched: evaluations a second": 400,
    "ours: share of the matmul peak": 0.6, "ours: outside the UNet": 0.01, "ours: first explanation": 2.54,
    "batched, compiled (default) / ours": 1.25, "batched, compiled (default): first run": 41,
    "batched, compiled (default): evaluations a second": 480,
    f"batched, compiled ({SLOWEST}) / ours": 1.1, f"batched, compiled ({SLOWEST}): first run": 160,
    "ours, compiled: evaluations a second": 700, "ours, compiled: first run": 52,
}  # fmt: skip
FLUX = {"explain": 3.2, "explain: evaluations": 128, "explain: peak memory": 31.5}
for i, way in enumerate(("batches", "batches, compiled", "loop", "loop, compiled", f"loop, compiled ({SLOWEST})")):
    FLUX |= {f"{way}: first run": 10 * i, f"{way}: evaluations a second": 10 * i + 1}


def rows(benchmark, case, values):
    """A row for each of {metric: value}, of more repeats than those of the ledger."""
    shared = {"benchmark": benchmark, "case": case, "machine": GPU, "n": "99", "date": "2999-01-01"}
    return [dict.fromkeys(ledger.FIELDS, "") | shared | {"metric": m, "value": str(v)} for m, v in values.items()]


@pytest.fixture
def pages(monkeypatch):
    """A function that renders pages {name: text} from what the ledger has beside these figures, and more rows."""
    new = [metric for metric in UNET if "compiled" in metric or "first" in metric]
    known = [row for row in ledger.read() if row["benchmark"] != "transformers" and row["metric"] not in new]

    def render(*more):
        monkeypatch.setattr(ledger, "read", lambda: [*known, *more])
        return {path.name: text for path, text in measurements.pages().items()}

    return render


def line_of(page, start):
    """The only line of ``page`` that begins so, as its cells."""
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return line.strip("| ").split(" | ")


def test_what_torch_compiles_is_not_measured_until_it_is(pages):
    found = pages()
    assert found["README.md"].count("`torch.compile`: not measured; an earlier version of dpid was no faster") == 1
    page = found["measurements.md"]
    assert "An earlier version was no faster than diffusers' batches under `torch.compile`" in page
    assert "have not been measured on a GPU (`benchmarks/gpu.sh OUT WHEELS models`" in page
    assert line_of(page, "| Stable Diffusion 2.1, 4×64×64 | NVIDIA")[5:9] == ["not measured"] * 4


def test_what_torch_compiles_is_shown_with_its_time(pages):
    flux = rows("transformers", "Flux.1 dev 512x512 K=4 bfloat16", FLUX)
    found = pages(*rows("unet", "sd2.1 4x64x64 K=4 float16", UNET), *flux)
    assert line_of(found["README.md"], "| Stable Diffusion 2.1")[1:] == [
        "600", "diffusers in batches: 400; these under `torch.compile`: 480",
    ]  # fmt: skip
    page = found["measurements.md"]
    assert "not been measured" not in page.partition("On a GPU, with random weights")[2].partition("\n## ")[0]
    assert "earlier version was no faster" not in page
    assert line_of(page, f"| Stable Diffusion 2.1, 4×64×64 | {GPU}")[5:9] == [
        "1.25× as fast; 41 s", "1.10× as fast; 160 s", "700; 52 s", "2.5 s",
    ]  # fmt: skip
    assert line_of(page, "| Flux.1 dev, 512²")[1:] == [
        GPU, "1.0; 0 s", "11.0; 10 s", "21.0; 20 s", "31.0; 30 s", "41.0; 40 s", "3.2 for 128", "31.5",
    ]  # fmt: skip
