"""The bias of i(x; y_S) by rounding: of the embedded model in bf16 and fp16 against fp32, of fp32 against fp64.

``python benchmarks/bench_precision.py [--scenes 4] [--types float32,float16]``. Both types evaluate the same samples.
``all in`` computes everything in the type; ``last in fp32``, which dpid does, leaves the last norm and convolution,
whose output is squared, in float32.
"""

import json
from pathlib import Path
from typing import Any

import ledger
import torch
import typer

import dpid
from dpid.denoisers.fused import runner
from dpid.denoisers.modes import PRECISIONS
from dpid.estimation.precision import rounding_bias
from dpid.prompts.plan import plan

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"


class Double:
    """The denoiser ``inner`` computed in float64, its predictions rounded to float32 at the end."""

    def __init__(self, inner: Any) -> None:
        self.single, self.inner = inner, inner.at("float64")

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def at(self, _: str) -> object:
        """The denoiser in float32, with which the bias is measured."""
        return self.single

    def eps_hat(self, *arguments: object) -> torch.Tensor:
        """The predictions ε̂ float32 [N,K,B,C,H,W]."""
        return self.inner.eps_hat(*arguments).float()


def main(scenes: int = 4, samples: int = 8, types: str = "float32,float16,bfloat16") -> None:
    """Measure and record in the ledger."""
    chosen = [s for s in json.loads((DATA / "index.json").read_text()) if len(s["pictures"]) == 2][:scenes]
    explainer = dpid.Explainer.from_pretrained("emoji", precision="float32")
    rows: list[dict[str, object]] = []
    kept = runner._LAST
    PRECISIONS["float64"] = torch.float64
    for precision in types.split(","):
        for variant, last in (("last in fp32", kept), ("all in", ())):
            runner._LAST = last
            if precision == "float32":
                if variant == "all in":
                    continue
                runner._LAST = ()
                low, sign = Double(explainer.denoiser), -1  # fp64 less fp32, the other way round
            else:
                low, sign = explainer.denoiser.at(precision), 1
            found: dict[str, list[torch.Tensor]] = {}
            for i, scene in enumerate(chosen):
                _, x = explainer._latents(DATA / scene["file"], None)
                (bias,) = rounding_bias(low, x, (plan(scene["prompt"], scene["concepts"]),), samples, seed=i)
                for name, maps in bias.items():
                    found.setdefault(name, []).append(sign * maps[-1])  # S = both concepts
            for name, maps in found.items():
                image = torch.stack([m.sum() for m in maps]).double()
                pixel = torch.stack(maps).double().flatten()
                case = f"{name}, {precision}, {'against fp64' if sign < 0 else variant}"
                error = float(image.std() / len(image) ** 0.5)
                rows += [
                    {"case": case, "metric": "bias of i(x; both), image", "value": float(image.mean()),
                     "stderr": error, "unit": "nats", "n": len(image)},
                    {"case": case, "metric": "bias of i(x; both), root mean square of a pixel",
                     "value": float(pixel.square().mean().sqrt()), "unit": "nats", "n": len(pixel)},
                ]  # fmt: skip
    runner._LAST = kept
    ledger.record("precision", rows, "emoji")


if __name__ == "__main__":
    typer.run(main)
