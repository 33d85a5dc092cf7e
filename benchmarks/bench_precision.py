"""How much rounding biases information: i(x; y_S) of the embedded model in bf16 and fp16 less that in fp32.

``python benchmarks/bench_precision.py [--scenes 4]``. The same samples in both types. ``all in`` is the type alone,
``last in fp32`` what dpid does: the last norm and convolution, whose output is squared, stay in float32.
"""

import json
from pathlib import Path

import ledger
import torch
import typer

import dpid
from dpid.conditions import plan
from dpid.denoisers import latent
from dpid.precision import rounding_bias

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"


def main(scenes: int = 4, samples: int = 8) -> None:
    """Measure and append to the ledger."""
    chosen = [s for s in json.loads((DATA / "index.json").read_text()) if len(s["pictures"]) == 2][:scenes]
    explainer = dpid.Explainer.from_pretrained("emoji", precision="float32")
    rows: list[dict[str, object]] = []
    kept = latent.LAST
    for precision in ("float16", "bfloat16"):
        for variant, last in (("last in fp32", kept), ("all in", ())):
            latent.LAST = last
            low = explainer.denoiser.at(precision)
            found: dict[str, list[torch.Tensor]] = {}
            for i, scene in enumerate(chosen):
                _, x = explainer._latents(DATA / scene["file"], None)
                bias = rounding_bias(low, x, plan(scene["prompt"], scene["concepts"]), samples, seed=i)
                for name, maps in bias.items():
                    found.setdefault(name, []).append(maps[-1])  # S = both concepts
            for name, maps in found.items():
                image = torch.stack([m.sum() for m in maps]).double()
                pixel = torch.stack(maps).double().flatten()
                case = f"{name}, {precision}, {variant}"
                error = float(image.std() / len(image) ** 0.5)
                rows += [
                    {"case": case, "metric": "bias of i(x; both), image", "value": float(image.mean()),
                     "stderr": error, "unit": "nats", "n": len(image)},
                    {"case": case, "metric": "bias of i(x; both), root mean square of a pixel",
                     "value": float(pixel.square().mean().sqrt()), "unit": "nats", "n": len(pixel)},
                ]  # fmt: skip
    latent.LAST = kept
    ledger.append("precision", rows)


if __name__ == "__main__":
    typer.run(main)
