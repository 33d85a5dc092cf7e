"""Pictures with known i(x; y), and many replicates of their estimates at once, for calibration and accuracy.

G replicates are G / R explanations of R replicates each, as :meth:`dpid.Explainer.explain` would compute them with G /
R seeds, in one pass.
"""

from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from dpid.denoisers import GaussianDenoiser, MixtureDenoiser
from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.grid import cells
from dpid.estimation.sampling import Samples, draw
from dpid.prompts.plan import Plan, from_mapping
from dpid.zoo.emoji import scenes, sprites

_BATCH = 4096  # evaluations in a call; these models are cheap
THINGS = ("cow", "giraffe", "pizza", "clock")  # that the scenes of :func:`scene` show


@dataclass(frozen=True)
class Case:
    """A picture x [1,C,H,W], the denoiser, and the plan of the conditions to explain it by."""

    name: str
    denoiser: Any
    x: Tensor
    plan: Plan
    batch: int | None = _BATCH

    def run(self, samples: Samples, seed: int) -> dict[str, Tensor]:
        """Replicates {estimator: f(S) float64 [G,3,H,W]} in nats per pixel."""
        sums = evaluate(self.denoiser, self.x, (self.plan,), samples, seed=seed, max_batch_size=self.batch)
        return {name: f[:, :, 0] for name, f in set_function(sums, self.plan).items()}

    def replicates(
        self, rule: str, each: int, count: int, seed: int, antithetic: bool = True, density: Tensor | None = None,
        together: int = 4,
    ) -> dict[str, Tensor]:  # fmt: skip
        """{estimator: f(S) [count,3,H,W]} of ``count`` replicates of ``each`` samples, drawn ``together`` at a time."""
        generator = torch.Generator().manual_seed(seed)
        drawn = [
            draw(rule, self.denoiser.logsnr_grid, each, together, generator, antithetic=antithetic, density=density,
                 first_id=i * each)
            for i in range(0, count, together)
        ]  # fmt: skip
        samples = Samples(
            torch.cat([s.logsnr for s in drawn]), torch.cat([s.weight for s in drawn]),
            torch.cat([s.replicate + i * together for i, s in enumerate(drawn)]),
            torch.cat([s.sample_id for s in drawn]),
        )  # fmt: skip
        return self.run(samples, seed)

    def density(self, seed: int, levels: int = 32, noises: int = 16) -> Tensor:
        """A density [T] for the rule "adaptive": half uniform, half the mean over S of the best ones for i(x; y_S).

        The best is ∝ √E f², f the integrand of "rao-blackwell" at ``levels`` levels, E the mean over ``noises`` noises.
        The best for all concepts alone would give huge weights to a wrong word, whose integrand lies elsewhere. The
        density is smoothed over one unit of log-SNR, since a grid integrates smooth functions far better.
        """
        grid = self.denoiser.logsnr_grid
        at = torch.linspace(0, len(grid) - 1, levels).long()
        index = torch.arange(levels * noises)
        samples = Samples(grid[at].repeat_interleave(noises), torch.ones(len(index)), index, index)
        f = self.run(samples, seed)["rao-blackwell"].sum((-2, -1)).view(levels, noises, -1)
        best = f.square().mean(1).sqrt()
        fine = np.linspace(float(grid[0]), float(grid[-1]), 1000)
        root = np.interp(fine, grid[at].numpy(), (best / best.sum(0)).mean(1).numpy())
        root = gaussian_filter1d(root, 1 / (fine[1] - fine[0]), mode="nearest")
        return torch.from_numpy(np.interp(grid.numpy(), fine, root / root.mean() + 1))


def gaussian(logsnr_range: tuple[float, float], levels: int = 1001, seed: int = 0) -> Case:
    """256 independent coordinates x = c₁ y₁ + c₂ y₂ + rest of variance one; c₁ is larger on the left, c₂ on the right.

    E i(x; y₁, y₂) = -128 ln 0.7 = 45.7 nats.
    """
    generator = torch.Generator().manual_seed(seed)
    y1, y2, rest = torch.randn(3, 4, 8, 8, generator=generator)
    left = torch.arange(8) < 4
    c1, c2 = (torch.where(half, 0.25, 0.05).sqrt().expand(4, 8, 8) for half in (left, ~left))
    mean, shape = {"": 0 * y1, "one": c1 * y1, "two": c2 * y2, "both": c1 * y1 + c2 * y2}, torch.ones(4, 8, 8)
    explained = {"": 0 * shape, "one": c1.square(), "two": c2.square(), "both": c1.square() + c2.square()}
    denoiser = GaussianDenoiser({k: (mean[k], shape - explained[k]) for k in mean}, logsnr_range, levels)
    x = mean["both"] + (shape - explained["both"]).sqrt() * rest
    return Case("gaussian", denoiser, x[None], _plan(*mean))


def mixture(logsnr_range: tuple[float, float], levels: int = 1001, wrong: bool = False, seed: int = 0) -> Case:
    """A mixture in 256 dimensions: one of three patterns on the left, one of three on the right, which y₁ and y₂ name.

    If true, either has about ln 3 nats. With ``wrong``, y₁ names a pattern that is not there, while both together name
    what is.
    """
    generator = torch.Generator().manual_seed(1)
    things = 0.5 * torch.randn(2, 3, 4, 8, 4, generator=generator)
    means = torch.stack([torch.cat((a, b), -1) for a in things[0] for b in things[1]])
    a, b = torch.arange(9) // 3, torch.arange(9) % 3
    weights = {"": a >= 0, "one": a == 1 if wrong else a == 0, "two": b == 0, "both": (a == 0) & (b == 0)}
    denoiser = MixtureDenoiser(means, 0.8, {k: w / w.sum() for k, w in weights.items()}, logsnr_range, levels)
    x = denoiser.sample("both", 1, torch.Generator().manual_seed(seed))
    return Case("mixture, wrong word" if wrong else "mixture", denoiser, x, _plan(*weights))


def scene(logsnr_range: tuple[float, float], levels: int = 1001, seed: int = 0) -> Case:
    """A cow left of a giraffe, among 64 scenes at 16×16: one or two of four objects, two places, two backgrounds.

    Every scene is a component of a mixture, which is a hundred times cheaper to evaluate than
    :class:`dpid.zoo.emoji.exact.SceneDenoiser` with its 14 million scenes.
    """
    shown = [*((thing,) for thing in THINGS), *permutations(THINGS, 2)]
    world = [(p, d, g) for p, d, g in product(shown, ((-2, -4), (2, 4)), scenes.BACKGROUNDS[:2])]
    means = torch.stack([_drawn(*one) for one in world])
    at = {word: torch.tensor([word in p for p, _, _ in world]) for word in THINGS[:2]}
    both = at[THINGS[0]] & at[THINGS[1]]
    chosen = {"": both | ~both, **at, " ".join(THINGS[:2]): both}
    weights = {caption: w / w.sum() for caption, w in chosen.items()}
    denoiser = MixtureDenoiser(means, 0.25, weights, logsnr_range, levels)
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(seed))
    x = means[world.index((THINGS[:2], (2, 4), scenes.BACKGROUNDS[0]))] + 0.25 * noise
    return Case("emoji-scenes", denoiser, x[None], _plan(*weights), 1024)


def _drawn(pictures: tuple[str, ...], offset: tuple[int, int], background: tuple[int, int, int]) -> Tensor:
    """A scene of ``pictures``, averaged down by four, [3,16,16] in [-1,1]."""
    middles = (scenes.SIZE // 2,) if len(pictures) == 1 else (scenes.SIZE // 4, 3 * scenes.SIZE // 4)
    half = scenes.SPRITE // 2
    corners = tuple((m - half + offset[0], scenes.SIZE // 2 - half + offset[1]) for m in middles)
    pixels = torch.tensor(sprites.draw(scenes.Scene(pictures, corners, background, ""))[0]).permute(2, 0, 1)
    return torch.nn.functional.avg_pool2d(pixels[None].float(), 4)[0] / 127.5 - 1


def _plan(null: Any, one: Any, two: Any, both: Any) -> Plan:
    """The plan of two concepts with these conditions."""
    return from_mapping({(): null, ("y1",): one, ("y2",): two, ("y1", "y2"): both})


def gaussian_sums(case: Case) -> dict[str, Tensor]:
    """The expectation of every estimator in closed form, {estimator: f(S) [3,H,W]}, in nats.

    At z = a x + b ε, ε̂_k = b (z - a m_k) / (a² v_k + b²) = A_k + B_k ε, so that E (ε̂_i - ε̂_j)² = (A_i - A_j)² +
    (B_i - B_j)² and E (ε - ε̂_k)² = A_k² + (1 - B_k)², coordinate by coordinate.
    """
    grid = case.denoiser.logsnr_grid.view(-1, 1, 1, 1)
    a2, b2 = grid.sigmoid(), (-grid).sigmoid()
    lines = []
    for name in case.plan.texts:
        mean, variance = (t.double() for t in case.denoiser.conditions[name])
        gain = 1 / (a2 * variance + b2)
        lines.append(((a2 * b2).sqrt() * gain * (case.x[0].double() - mean), b2 * gain))

    def integral(values: Tensor) -> Tensor:
        return 0.5 * (cells(grid.flatten()).view(-1, 1, 1, 1) * values).sum((0, 1))

    def gap(i: int, j: int) -> Tensor:
        return integral(sum((p - q).square() for p, q in zip(lines[i], lines[j], strict=True)))

    residual = [integral(shift.square() + (1 - slope).square()) for shift, slope in lines]
    null, *rest = case.plan.index
    return {
        "rao-blackwell": torch.stack([gap(rest[-1], null) - gap(rest[-1], k) for k in rest]),
        "standard": torch.stack([residual[null] - residual[k] for k in rest]),
        "orthogonal": torch.stack([gap(null, k) for k in rest]),
    }


def gaussian_log_ratios(case: Case) -> Tensor:
    """The exact log p(x | y_S) / p(x) [3,H,W] in nats of every pixel, since pixels are independent."""
    logs = []
    for name in case.plan.texts:
        mean, variance = (t.double() for t in case.denoiser.conditions[name])
        logs.append(torch.distributions.Normal(mean, variance.sqrt()).log_prob(case.x[0].double()).sum(0))
    return torch.stack([logs[k] - logs[case.plan.index[0]] for k in case.plan.index[1:]])
