"""What rule "learning" gains on a model without a density, picture by picture, and whether it is unbiased.

``python benchmarks/bench_learning.py`` tabulates the embedded model's answers about fresh scenes in build/learning,
minutes of a core, then draws from the tables and records in the ledger: how many evaluations ITD's rule needs for the
error of 32 on the even grid, by the density that the model ships, and by rule "learning" on its first picture, its
second, and so on. A table has every level of a coarser grid under the same few noises, so that the exact sum and ITD's
error are known, and thousands of explanations cost nothing. Of the exact models, real explanations: 500 repeats of a
fourth picture in four rounds, against the exact sums.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import calibrate
import known
import ledger
import numpy as np
import torch
import typer
from torch import Tensor

import dpid
from dpid.estimation.density import logistic_density
from dpid.estimation.estimators import MEASURED, SIGNED, evaluate, set_function
from dpid.estimation.grid import cells
from dpid.estimation.learning import Learnt
from dpid.estimation.sampling import Samples, draw
from dpid.images import encode_pixels, to_pixels
from dpid.options import Options
from dpid.prompts.plan import plan
from dpid.studies import world
from dpid.zoo.emoji import scenes

WORK = ledger.kept(Path(__file__).parents[1] / "build" / "learning")
SEED = "learning 25"  # of the scenes; no training, study or other benchmark draws from it
SCENES, LEVELS, NOISES = 8, 48, 4  # of the tables; every noise with both signs
CHAINS, DRAWS, REPEATS = 64, 40, 500
OPTIONS = Options()
KINDS = ("image", "pixel")


@dataclass(frozen=True)
class Table:
    """The integrand of every level of ``grid`` [T], noise, sign, estimator, subset and pixel: [T,M,2,3,3,P] float32."""

    grid: Tensor
    density: Tensor
    integrand: Tensor

    @cached_property
    def image(self) -> Tensor:
        """Its sums over pixels, [T,M,2,3,3] float64."""
        return self.integrand.double().sum(-1)

    @cached_property
    def itd(self) -> Tensor:
        """The exact mean square error of one evaluation by ITD's rule, [2 kinds, 3 estimators]."""
        weight = cells(self.grid) / logistic_density(self.grid)
        squares = [
            torch.einsum("t,t...->...", weight.square() * logistic_density(self.grid), f.double().square().mean((1, 2)))
            - self.exact(f).square()
            for f in (self.image, self.integrand)
        ]
        return torch.stack([squares[0].mean(-1), squares[1].mean((-2, -1))])

    def exact(self, f: Tensor) -> Tensor:
        """The sum over all levels of ``f`` [T,M,2,*], the truth of the table."""
        return torch.einsum("t,t...->...", cells(self.grid), f.double().mean((1, 2)))

    def explain(self, density: Tensor, generator: torch.Generator) -> tuple[Samples, Tensor]:
        """The samples of a default explanation by ``density``, and the place of each in the table, T·M·2."""
        drawn = draw("adaptive", self.grid, OPTIONS.per_replicate, OPTIONS.repeats, generator, density=density)
        level = torch.searchsorted(self.grid, drawn.logsnr)
        noise = torch.randint(NOISES, (len(level) // 2,), generator=generator).repeat_interleave(2)
        return drawn, (level * NOISES + noise) * 2 + (drawn.sample_id < 0)

    def error(self, density: Tensor, generator: torch.Generator, draws: int) -> Tensor:
        """The mean square error of default explanations by ``density``, [2 kinds, 3 estimators]."""
        total = torch.zeros(2, 3, dtype=torch.float64)
        for _ in range(draws):
            drawn, at = self.explain(density, generator)
            for k, f in enumerate((self.image, self.integrand)):
                found = torch.tensordot(drawn.weight.to(f.dtype), f.flatten(0, 2)[at], 1) / OPTIONS.repeats
                error = (found.double() - self._truths[k]).square()
                total[k] += error.flatten(1).mean(1)
        return total / draws

    @cached_property
    def _truths(self) -> tuple[Tensor, Tensor]:
        return self.exact(self.image), self.exact(self.integrand)


def pictures() -> list[tuple[str, str]]:
    """What the scenes show, left and right."""
    rng, chosen = random.Random(SEED), []
    while len(chosen) < SCENES:
        a, b = rng.sample(list(scenes.THINGS), 2)
        if scenes.allowed(a, b):
            chosen.append((a, b))
    return chosen


def table(explainer: dpid.Explainer, number: int, shown: tuple[str, str]) -> Table:
    """The table of a scene, read from ``WORK`` or measured."""
    path = WORK / f"{number}-{ledger.fingerprint('emoji')}.pt"
    if not path.exists():
        WORK.mkdir(parents=True, exist_ok=True)
        torch.save(_measured(explainer, number, shown), path)
    return Table(*torch.load(path))


def _measured(explainer: dpid.Explainer, number: int, shown: tuple[str, str]) -> tuple[Tensor, Tensor, Tensor]:
    a, b = (scenes.THINGS[name][1][0] for name in shown)
    asked, denoiser = plan(f"a {a} and a {b}", (a, b)), explainer.denoiser
    pixels = to_pixels(world.picture(shown, f"{SEED} {number}"), (64, 64))
    grid = denoiser.logsnr_grid
    even = torch.linspace(float(grid[0]), float(grid[-1]), LEVELS, dtype=grid.dtype)
    at = (grid[:, None] - even).abs().argmin(0).unique()  # fewer where the levels themselves are further apart
    noise = torch.arange(len(at) * NOISES)
    index = torch.arange(2 * len(noise))
    samples = Samples(grid[at].repeat_interleave(2 * NOISES), torch.ones(len(index)), index,
                      torch.stack((noise, ~noise), -1).flatten())  # fmt: skip
    with torch.inference_mode():
        x = encode_pixels(pixels[None], denoiser)
        f = set_function(evaluate(denoiser, x, (asked,), samples, seed=number), asked)
    integrand = torch.stack([f[name][:, :, 0].flatten(2) for name in MEASURED], 1).float()
    assert explainer.density is not None
    return grid[at], explainer.density.double()[at], integrand.unflatten(0, (len(at), NOISES, 2))


def in_order(tables: list[Table], order: list[int], generator: torch.Generator) -> Tensor:
    """The errors [pictures, 2, 3] of rule "learning" on one picture after the other."""
    learnt, errors = Learnt().of(tables[0].grid, None), []
    for number in order:
        one = tables[number]
        density = learnt.density(one.grid)
        errors.append(one.error(density, generator, DRAWS))
        drawn, at = one.explain(density, generator)
        signed = one.image.flatten(0, 2)[at][:, [MEASURED.index(name) for name in SIGNED]]
        learnt = learnt.after(drawn, signed.flatten(1), OPTIONS.antithetic)
    return torch.stack(errors)


def gains(tables: list[Table]) -> Iterator[dict[str, object]]:
    """Rows of how many evaluations ITD's rule needs, and of how near "learning" is to the shipped density."""
    generator = torch.Generator().manual_seed(0)
    errors = {  # {rule: [scenes, 2, 3]}
        "even grid": torch.stack([t.error(torch.ones_like(t.grid), generator, CHAINS * DRAWS) for t in tables]),
        "shipped density": torch.stack([t.error(t.density, generator, CHAINS * DRAWS) for t in tables]),
    }
    orders = [torch.randperm(SCENES, generator=generator).tolist() for _ in range(CHAINS // SCENES)]
    orders = [order[k:] + order[:k] for order in orders for k in range(SCENES)]  # every scene in every place
    found = torch.stack([in_order(tables, order, generator) for order in orders])  # [chains, pictures, 2, 3]
    for place in range(SCENES):
        at = [[c for c, order in enumerate(orders) if order[place] == s] for s in range(SCENES)]
        errors[f"learning, picture {place + 1}"] = torch.stack([found[chains, place].mean(0) for chains in at])
    rng = np.random.default_rng(0)
    share = torch.from_numpy(rng.multinomial(SCENES, np.full(SCENES, 1 / SCENES), size=1000) / SCENES)
    itd = torch.stack([t.itd for t in tables])
    compared = {f"evaluations ITD / {rule} at the error of {OPTIONS.samples}": (itd / OPTIONS.samples, error)
                for rule, error in errors.items()}  # fmt: skip
    compared |= {f"{rule} / shipped density, evaluations for an error": (errors["shipped density"], error)
                 for rule, error in errors.items() if rule.startswith("learning")}  # fmt: skip
    for metric, (more, less) in compared.items():
        value = more.mean(0) / less.mean(0)
        boot = torch.einsum("bs,ske->bke", share, more) / torch.einsum("bs,ske->bke", share, less)
        low, high = boot.quantile(torch.tensor([0.025, 0.975], dtype=boot.dtype), dim=0)
        for k, e in np.ndindex(2, 3):
            yield {"case": f"emoji, {MEASURED[e]}, {KINDS[k]}", "metric": metric, "value": float(value[k, e]),
                   "stderr": float(boot[:, k, e].std()), "low": float(low[k, e]), "high": float(high[k, e]),
                   "n": SCENES, "unit": "x"}  # fmt: skip


EXACT: dict[str, Callable[[int], known.Case]] = {
    "gaussian": lambda seed: known.gaussian(calibrate.GAUSSIAN, seed=seed),
    "mixture": lambda seed: known.mixture(calibrate.MIXTURE, seed=seed),
    "mixture, wrong word": lambda seed: known.mixture(calibrate.WRONG, wrong=True, seed=seed),
    "emoji-scenes": lambda seed: known.scene(calibrate.SCENE, seed=seed),
}


def four_pictures(name: str) -> list[known.Case]:
    """Four pictures of an exact model, the fourth of which is asked about."""
    return [EXACT[name](seed) for seed in (1, 2, 3, 0)]


def last_pictures(cases: list[known.Case], repeats: int, rounds: int = 1) -> Tensor:
    """Estimates [repeats, 3 estimators, 3 subsets] about the last of ``cases``, in ``rounds``, after all the others.

    Without others and in one round they are those of the even grid.

    All explanations of a repeat have the same seed, as those of a user who never names one.
    """
    last = cases[-1]  # by whose model all are explained
    asked = {s: last.plan.texts[k] for s, k in zip(last.plan.subsets, last.plan.index, strict=True)}
    found = []
    for seed in range(repeats):
        explainer = dpid.Explainer(last.denoiser)
        for case in cases[:-1]:
            explainer.explain(latents=case.x[0], conditions=asked, seed=seed)
        *_, result = explainer.stream(
            latents=last.x[0], conditions=asked, seed=seed, max_samples=rounds * OPTIONS.samples
        )
        found.append(torch.stack([result.replicates[e].double().mean(0).sum((-2, -1)) for e in MEASURED]))
    return torch.stack(found)


def largest_bias(name: str, repeats: int) -> Tensor:
    """The largest bias of i(x; y_S) by every estimator, [3], in standard errors: a fourth picture in four rounds."""
    cases = four_pictures(name)
    if name == "gaussian":
        truth = {k: v[None] for k, v in known.gaussian_sums(cases[-1]).items()}
    else:  # a run so long that its own error, which is added, is the smaller one
        truth = cases[-1].replicates("adaptive", 64, 2048, seed=99, density=cases[-1].density(seed=2))
    sums = torch.stack([truth[e].sum((-2, -1)) for e in MEASURED], 1)  # [G,3,3]
    known_to = sums.var(0) / len(sums) if len(sums) > 1 else 0
    f = last_pictures(cases, repeats, rounds=4)
    return ((f.mean(0) - sums.mean(0)) / (f.var(0) / len(f) + known_to).sqrt()).abs().amax(1)


def on_exact_models() -> Iterator[dict[str, object]]:
    """Rows of the bias of rule "learning" on the exact models, and of its gain on a fourth picture."""
    for name in EXACT:
        cases = four_pictures(name)
        even, learnt = (last_pictures(some, REPEATS).var(0).mean(1) for some in (cases[-1:], cases))
        for estimator, ratio in zip(MEASURED, (even / learnt).tolist(), strict=True):
            yield {"case": f"{name}, {estimator}", "metric": "variance of the even grid / learning, picture 4, image",
                   "value": ratio, "stderr": ratio * 2 / REPEATS**0.5, "n": REPEATS, "unit": "x"}  # fmt: skip
        for estimator, z in zip(MEASURED, largest_bias(name, REPEATS).tolist(), strict=True):
            yield {"case": f"{name}, {estimator}", "metric": "largest bias of three i(x; y_S), in standard errors",
                   "value": z, "n": REPEATS}  # fmt: skip


def main() -> None:
    """Measure, print and record in the ledger."""
    explainer = dpid.Explainer.from_pretrained("emoji").at("float32")
    tables = [table(explainer, number, shown) for number, shown in enumerate(pictures())]
    ledger.record("learning", [*gains(tables), *on_exact_models()], "emoji")


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
