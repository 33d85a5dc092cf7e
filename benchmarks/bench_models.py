"""What one evaluation of each family costs at true size: ``python benchmarks/bench_models.py [--model NAME]``.

Networks of ``benchmarks/true_sizes.py`` and their inputs are fake tensors (of torch's meta device, with sizes and no
values), so that nothing is downloaded and figures are the same on every machine. FLOPs are those of matrix products,
convolutions and attention, a multiplication and an addition counted as two. Texts have all the tokens that the pipeline
may give or, where padding is masked and cut, also 10. Activations are the bytes of tensors beside the weights that are
alive at once, in bfloat16, and what dpid estimates from above when it chooses the size of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import ledger
import torch
import typer
from peak import Peak
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from true_sizes import MODELS, TEXT, Model

from dpid.bench.speed import UNCOUNTED
from dpid.denoisers.families import FAMILIES, Family
from dpid.quiet import quiet

SHORT = 10  # tokens of a short text


def _experts(self: Any, x: Tensor, chosen: Tensor, _: Tensor) -> Tensor:
    """HiDream's mixture of experts where every expert gets as many tokens, as which they get depends on values."""
    out, share = torch.zeros_like(x), len(chosen) // len(self.experts)
    for expert in self.experts:
        out[:share] += expert(x[:share])
    return out


@contextmanager
def without_values() -> Iterator[None]:
    """A context of fake tensors, in which HiDream reads no values: experts get equal shares, and sizes are numbers."""
    from diffusers.models.transformers import transformer_hidream_image as hidream

    network = hidream.HiDreamImageTransformer2DModel
    patchify = network.patchify

    def sized(self: Any, x: Tensor) -> tuple[Any, ...]:
        tokens, masks, _, ids = patchify(self, x)
        return tokens, masks, [[side // self.config.patch_size for side in x.shape[-2:]]] * len(x), ids

    with (
        quiet(),
        mock.patch.object(hidream.MOEFeedForwardSwiGLU, "moe_infer", _experts),
        mock.patch.object(network, "patchify", sized),
        FakeTensorMode(),
    ):
        yield


def family_at_true_size(model: Model) -> Family:
    """The family of ``model`` around its network in bfloat16, within :func:`without_values`."""
    import diffusers

    torch.set_default_dtype(torch.bfloat16)  # fake weights cannot be converted
    try:
        network = getattr(diffusers, model.network)(**model.config).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    kind = FAMILIES[model.pipeline]
    family = object.__new__(kind)  # what it would check in a pipeline is not there
    called = {"__call__": getattr(diffusers, model.pipeline).__call__}  # whose defaults are the native size of a video
    family.pipe = type("Pipeline", (SimpleNamespace,), called)(
        _execution_device=torch.device("cpu"), scheduler=SimpleNamespace(config=model.scheduler),
        vae=SimpleNamespace(config={"block_out_channels": (0,) * 4, "encoder_block_out_channels": (0,) * 6,
                                    "temperal_downsample": (False, True, True)},
                            spatial_compression_ratio=32, temporal_compression_ratio=8),  # LTX-Video's
        **{kind.network: network},
    )  # fmt: skip
    return family


def evaluation(model: Model, family: Family, side: int, tokens: int) -> Callable[[], None]:
    """A call that makes one evaluation on ``side``² pixels and a text of ``tokens``."""
    rows = side // model.factor * (family.latent_frames or 1)
    latent, t = torch.zeros(1, family.channels, rows, side // model.factor), torch.full((1,), 0.5)
    texts: Mapping[str, Tensor] = {
        name: torch.zeros(1, *(tokens if n == TEXT else n for n in shape)) for name, shape in model.texts.items()
    }

    def evaluate() -> None:
        with mock.patch.object(FakeTensor, "tolist", lambda self: [tokens] * len(self)):  # Lumina 2 sums its mask
            out = family.plain(latent, t, texts, "bfloat16")
        assert out.shape[1:] == latent.shape

    return evaluate


def flops_of(model: Model, family: Family, side: int, tokens: int) -> int:
    """The FLOPs of one evaluation on ``side``² pixels and a text of ``tokens``."""
    evaluate = evaluation(model, family, side, tokens)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as flops:
        evaluate()
    return int(flops.get_total_flops())


def activations_of(model: Model, family: Family, side: int) -> tuple[int, int]:
    """The bytes beside the weights that one evaluation on ``side``² pixels holds at once, and dpid's estimate."""
    evaluate, latent = evaluation(model, family, side, model.tokens), side // model.factor
    with Peak() as measured:
        evaluate()
    return measured.peak, family.evaluation_bytes(latent * (family.latent_frames or 1), latent, 2)


def measured(model: Model) -> list[dict[str, object]]:
    """The ledger's rows of a model, within :func:`without_values`."""
    rows: list[dict[str, object]] = []

    def row(metric: str, value: float, unit: str, more: str = "") -> None:
        note = f"meta tensors{more}"
        rows.append({"case": model.name, "metric": metric, "value": value, "n": 1, "unit": unit, "note": note})

    family = family_at_true_size(model)
    row("parameters", sum(p.numel() for p in family.net.parameters()) / 1e9, "1e9")
    row("numbers stored", sum(t.numel() for t in family.net.state_dict().values()) / 1e9, "1e9")
    for side in sorted({512, model.side}):
        where = f"{side}x{side}"
        flops = flops_of(model, family, side, model.tokens)
        row(f"FLOPs, {where}", flops / 1e12, "TFLOP", f", {model.tokens} tokens of text")
        peak, estimate = activations_of(model, family, side)
        row(f"activations, {where}", peak / 1e9, "GB", f", {model.tokens} tokens of text")
        row(f"activations, {where}, estimated", estimate / 1e9, "GB")
    if model.cut:
        flops = flops_of(model, family, model.side, SHORT)
        row(f"FLOPs, {where}, short text", flops / 1e12, "TFLOP", f", {SHORT} tokens of text")
    return rows


def main(model: Annotated[str, typer.Option(help="Only models whose name has this in it.")] = "") -> None:
    """Measure and record in the ledger."""
    with without_values():
        for one in MODELS:
            if model.lower() in one.name.lower():
                ledger.record("models", measured(one))


if __name__ == "__main__":
    typer.run(main)
