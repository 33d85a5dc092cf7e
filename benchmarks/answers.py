"""Estimates compared with exact values: one Gaussian condition, the chain rule at an AND gate, wrong words."""

from dataclasses import dataclass, field, replace
from math import log
from typing import Any

import known
import torch
from torch import Tensor

from dpid.denoisers import MixtureDenoiser
from dpid.denoisers.protocol import Conditions
from dpid.estimation.engine import Accumulator
from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.sampling import Samples, draw
from dpid.pid import mean_stderr
from dpid.prompts.plan import Plan, from_mapping, subsets_of

# For y ~ N(0,1), x | y ~ N(y,1): y, x, log p(x | y) / p(x), and i° (docs/theory.md, eq. (9)), in nats.
TOY = (
    (1.0, 1.0, 0.596574, 0.289721), (1.0, 0.0, -0.153426, 0.539721), (1.0, -2.0, -3.153426, 1.380838),
    (0.0, 0.0, 0.346574, 0.039721), (0.0, 3.0, -1.903426, 0.551396),
    (2.0, 1.0, 0.096574, 1.482868), (2.0, 2.0, 1.346574, 1.039721),
)  # fmt: skip
AND_CHAIN = {(0, 1): -0.523, (1, 1): 0.523}  # {(y1, y2): E of i°(12) - i°(2) - i°(1 | 2)}, nats
_BLOCKS = 32  # of pictures: from the spread of so many means their error is known to an eighth
PARAMETERISATIONS = ("eps", "v", "x0", "edm", "flow")


@dataclass
class Toy:
    """The exact denoiser of x | y ~ N(y,1), y ~ N(0,1), x [1,1,1], with the output of a given parameterisation.

    As a network would, it predicts the conditional mean of its own target given its own input, from which ε̂ follows
    (docs/theory.md, eq. (3)). With z = a x + b ε, λ the log-SNR, a² = σ(λ), b² = σ(-λ):

    - "eps"   ε given z
    - "v"     a ε - b x given z
    - "x0"    x given z
    - "edm"   x given x + s ε = z / a with s = e^{-λ/2}; ε̂ = (z / a - x̂) / s
    - "flow"  ε - x given (1-t) x + t ε = z / (a + b), t = b / (a + b)
    """

    parameterisation: str
    y: float
    name: str = "toy"
    precision: str = "float32"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def logsnr_grid(self) -> Tensor:
        """Log-SNRs [2001], outside of which the integrals have less than 1e-4 nats."""
        return torch.linspace(-12, 16, 2001, dtype=torch.float64)

    def encode_conditions(self, conditions: tuple[str, ...]) -> Conditions:
        """The mean and variance of x under the conditions "" and "y"."""
        moments = {"": (0.0, 2.0), "y": (self.y, 1.0)}
        return Conditions(tuple(conditions), torch.tensor([moments[c] for c in conditions], dtype=torch.float64))

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """E[ε | z, condition] float32 [N,K,B,1,1,1] of z [N,B,1,1,1]."""
        mean, variance = (m.view(1, -1, 1, 1, 1, 1) for m in conditions.encoded.unbind(1))
        a, b = (s.double().sigmoid().sqrt().view(-1, *[1] * 5) for s in (logsnr, -logsnr))
        z = z.double()[:, None]

        def expected(x: Tensor | float, eps: Tensor | float, i: Tensor | float, j: Tensor, given: Tensor) -> Tensor:
            """E[x · X + eps · ε | i X + j ε = given], by linear regression."""
            slope = (x * i * variance + eps * j) / (i * i * variance + j * j)
            return x * mean + slope * (given - i * mean)

        if self.parameterisation == "eps":
            eps = expected(0.0, 1.0, a, b, z)
        elif self.parameterisation == "v":
            eps = a * expected(-b, a, a, b, z) + b * z
        elif self.parameterisation == "x0":
            eps = (z - a * expected(1.0, 0.0, a, b, z)) / b
        elif self.parameterisation == "edm":
            s = (-logsnr.double() / 2).exp().view_as(a)
            eps = (z / a - expected(1.0, 0.0, 1.0, s, z / a)) / s
        else:
            t, scaled = b / (a + b), z / (a + b)
            eps = scaled + (1 - t) * expected(-1.0, 1.0, 1 - t, t, scaled)
        return eps.float()


@dataclass(frozen=True)
class Answer:
    """An estimate, its standard error, and its exact value."""

    case: str
    what: str
    value: float
    stderr: float
    exact: float

    @property
    def z(self) -> float:
        """The error in standard errors, of which the least is 1e-6 nats: the rounding of float32 sums."""
        return (self.value - self.exact) / max(self.stderr, 1e-6)


def toy(parameterisation: str, each: int = 2**15, replicates: int = 32) -> list[Answer]:
    """Estimates of both columns of ``TOY`` with ``each`` samples in each of the ``replicates``."""
    found = []
    plan = from_mapping({(): "", ("y",): "y"})
    for y in dict.fromkeys(row[0] for row in TOY):
        rows = [row for row in TOY if row[0] == y]
        denoiser, x = Toy(parameterisation, y), torch.tensor([row[1] for row in rows]).view(-1, 1, 1, 1)
        density = (-denoiser.logsnr_grid.abs() / 2).exp() + 0.02  # roughly that of the integrand
        samples = draw("adaptive", denoiser.logsnr_grid, each, replicates, torch.Generator().manual_seed(0),
                       density=density)  # fmt: skip
        f = set_function(evaluate(denoiser, x, (plan,), samples, seed=0, max_batch_size=2**17), plan)
        for column, estimator in ((2, "standard"), (3, "orthogonal")):
            values, errors = (t[0, :, 0, 0] for t in mean_stderr(f[estimator]))
            for row, value, error in zip(rows, values.tolist(), errors.tolist(), strict=True):
                found.append(Answer(f"toy, {parameterisation}", f"{estimator}, y = {y:g}, x = {row[1]:g}",
                                    value, error, row[column]))  # fmt: skip
    return found


def in_blocks(denoiser: Any, x: Tensor, plan: Plan, samples: Samples) -> Accumulator:
    """The sums of pictures ``x`` [B,C,H,W], in blocks of equal size with noise of their own.

    Pictures of one call have the same noise; the mean of all would be less certain than their spread tells.
    """
    blocks = enumerate(x.chunk(_BLOCKS))
    parts = [evaluate(denoiser, part, (plan,), samples, seed=i, max_batch_size=2**16) for i, part in blocks]
    gaps, residuals = torch.cat([p.gaps for p in parts], 2), torch.cat([p.residuals for p in parts], 2)
    return replace(parts[0], gaps=gaps, residuals=residuals)


def mean_of_blocks(values: Tensor) -> tuple[float, float]:
    """The mean of ``values`` [B] of pictures from :func:`in_blocks`, and its error."""
    mean, error = mean_stderr(values.view(_BLOCKS, -1).mean(1))
    return float(mean), float(error)


def elsewhere(pictures: int = 4096, each: int = 64) -> list[Answer]:
    """Means of iˢ and i° over x ~ p(x), which y = 1 does not describe: -KL(p(x) ‖ p(x | y)) and its opposite.

    E log p(x | y) / p(x) = ½ ln 2 - ½ E (x - y)² + ¼ E x² = ½ ln 2 - ½ - ½ y².
    """
    denoiser, plan, exact = Toy("eps", 1.0), from_mapping({(): "", ("y",): "y"}), 0.5 * log(2) - 1
    x = 2**0.5 * torch.randn(pictures, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    samples = draw("shifted-grid", denoiser.logsnr_grid, each, 4, torch.Generator().manual_seed(1))
    f = set_function(in_blocks(denoiser, x, plan, samples), plan)
    found = []
    for estimator, expected in (("standard", exact), ("orthogonal", -exact)):
        mean, error = mean_of_blocks(f[estimator].mean(0).flatten())
        found.append(Answer("toy, x not of y", f"E of {estimator}", mean, error, expected))
    return found


def and_gate(pictures: int = 256, each: int = 64) -> list[Answer]:
    """Mean deviations from the chain rule f(12) = f(2) + f(1 | 2), for x = ±1 + 0.1 n with the sign y1 AND y2."""
    bit = {0: (1.0, 0.0), 1: (0.5, 0.5)}  # P(x = -1) and P(x = +1), given one of the bits
    found = []
    for (y1, y2), expected in AND_CHAIN.items():
        weights = {"": (0.75, 0.25), "one": bit[y1], "two": bit[y2], "both": (0.0, 1.0) if y1 and y2 else (1.0, 0.0)}
        plan = from_mapping(dict(zip(subsets_of(("y1", "y2")), weights, strict=True)))
        means = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
        denoiser = MixtureDenoiser(means, 0.1, {k: torch.tensor(w) for k, w in weights.items()})
        x = denoiser.sample("both", pictures, torch.Generator().manual_seed(0))
        samples = draw("shifted-grid", denoiser.logsnr_grid, each, 8, torch.Generator().manual_seed(1))
        sums = in_blocks(denoiser, x, plan, samples)
        f = {name: v.mean(0)[:, :, 0, 0] for name, v in set_function(sums, plan).items()}  # [3,B]
        at = sums.pairs.tolist().index([2, 3])
        given = {
            "standard": (sums.residuals[:, 2] - sums.residuals[:, 3]).double().mean(0).flatten(),
            "orthogonal": sums.gaps[:, at].double().mean(0).flatten(),
        }
        for estimator, exact in (("standard", 0.0), ("orthogonal", expected)):
            mean, error = mean_of_blocks(f[estimator][2] - f[estimator][1] - given[estimator])
            found.append(Answer(f"AND, y = {y1}{y2}", f"{estimator}: f(12) - f(2) - f(1 | 2)", mean, error, exact))
    return found


def words(pictures: int = 512, each: int = 64) -> list[Answer]:
    """Means over x ~ p(x | F) of iʳ(S) - log p(x | y_S) / p(x), exactly zero, for true words and for a wrong one."""
    found = []
    for wrong in (False, True):
        case = known.mixture((-8.0, 13.0), wrong=wrong)
        denoiser = case.denoiser
        x = denoiser.sample("both", pictures, torch.Generator().manual_seed(3))
        samples = draw("shifted-grid", denoiser.logsnr_grid, each, 4, torch.Generator().manual_seed(4))
        sums = in_blocks(denoiser, x, case.plan, samples)
        f = set_function(sums, case.plan)["rao-blackwell"].mean(0).sum((-2, -1))  # [3,B]
        for i, condition in enumerate(("one", "two", "both")):
            difference = f[i] - denoiser.log_ratio(x, condition, "")
            mean, error = mean_of_blocks(difference)
            found.append(Answer(case.name, f"E of rao-blackwell - log-ratio, {condition}", mean, error, 0.0))
    return found


def measure() -> list[dict[str, object]]:
    """All estimates as rows of the ledger; the name of the metric contains the exact value."""
    found = [a for p in PARAMETERISATIONS for a in toy(p)] + elsewhere() + and_gate() + words()
    worst = max(abs(a.z) for a in found)
    print(f"{len(found)} known answers, the farthest {worst:.1f} standard errors off")
    return [
        {"case": a.case, "metric": f"{a.what}; exact {a.exact:g}", "value": a.value, "stderr": a.stderr, "n": 1,
         "unit": "nats"}
        for a in found
    ]  # fmt: skip
