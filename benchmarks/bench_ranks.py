"""How often a ranking tells two equally good pictures apart: ``python benchmarks/bench_ranks.py``.

Pairs of pictures of the mixture (:func:`known.mixture`), of which both words are true: log p(x | y1, y2) / p(x) is ln 9
of each. A p value of 0.05 should come in 5 % of rankings, and does more often where few replicates draw the rare noise
that decides. Without a density (``shifted-grid``) and with one (``adaptive``); errors are of the pairs.
"""

from collections.abc import Iterator
from itertools import product
from typing import Annotated

import known
import ledger
import torch
import typer

from dpid.options import Options
from dpid.prompts.plan import Plan
from dpid.ranking import differences, ranking, samples_for

SIZES = ((32, 8), (32, 16), (64, 16), (128, 8), (512, 8))  # samples and replicates


def shares(pairs: int, seeds: int) -> Iterator[dict[str, object]]:
    """Rows of the ledger: the share of rankings of two equal pictures whose p is below 0.05 and 0.01."""
    case, density = known.mixture((-9.0, 7.0)), known.mixture((-9.0, 7.0), seed=1).density(seed=2)
    texts = tuple(case.plan.texts[case.plan.index[i]] for i in (0, -1))
    question = Plan(("both",), ((), ("both",)), texts, (0, 1), 1)
    x = case.denoiser.sample(texts[1], 2 * pairs, torch.Generator().manual_seed(11))
    for rule, (samples, replicates) in product(("shifted-grid", "adaptive"), SIZES):
        found = []
        for seed in range(seeds):
            options = Options(samples=samples, replicates=replicates, seed=seed, rule=rule, max_batch_size=case.batch)
            drawn = samples_for(options, case.denoiser.logsnr_grid, density if rule == "adaptive" else None)
            with torch.inference_mode():
                f = differences(case.denoiser, x, question, drawn, options, lambda *_: None)
            found.append([ranking("", dict(enumerate(f[i : i + 2])), {}, {}).p_value for i in range(0, 2 * pairs, 2)])
        p = torch.tensor(found)  # [seeds, pairs]
        for most in (0.05, 0.01):
            each = (p < most).double().mean(0)
            yield {
                "case": f"mixture, {rule}, {samples} samples in {replicates} replicates",
                "metric": f"equal pictures with p below {most}", "value": float(each.mean()),
                "stderr": float(each.std() / pairs**0.5), "n": p.numel(),
            }  # fmt: skip


def main(
    pairs: Annotated[int, typer.Option(min=2, help="Pairs of pictures.")] = 60,
    seeds: Annotated[int, typer.Option(min=1, help="Rankings of every pair.")] = 100,
) -> None:
    """Measure, print and record in the ledger."""
    ledger.record("ranks", list(shares(pairs, seeds)))


if __name__ == "__main__":
    typer.run(main)
