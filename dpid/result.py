"""What an explanation returns: numbers with errors, maps, one file that holds all of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.conditions import Subset, subsets_of
from dpid.pid import Atoms, decompose_replicates, mean_stderr

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "1"


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in nats; ``dof`` = replicates - 1."""

    value: float
    stderr: float
    dof: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval by Student's t with ``dof`` degrees of freedom."""
        from scipy.special import stdtrit

        half = float(stdtrit(self.dof, 0.5 + level / 2)) * self.stderr
        return self.value - half, self.value + half

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"


@dataclass(frozen=True)
class Maps:
    """Nats per latent pixel, float32 [h, w] each; ``stderr`` holds the standard errors in the same shape."""

    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    stderr: Maps | None = None


@dataclass(frozen=True)
class Decomposition:
    """PID by one estimator, whole image and per pixel."""

    information: dict[Subset, Estimate]
    redundancy: Estimate
    unique: dict[str, Estimate]
    synergy: Estimate
    maps: Maps

    def to_dict(self) -> dict[str, Any]:
        """The image-level numbers, ready for JSON; subsets are written "cow+giraffe"."""

        def number(e: Estimate) -> dict[str, float]:
            return {"value": e.value, "stderr": e.stderr}

        return {
            "redundancy": number(self.redundancy),
            "unique": {c: number(e) for c, e in self.unique.items()},
            "synergy": number(self.synergy),
            "information": {"+".join(s): number(e) for s, e in self.information.items()},
        }


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]


def decomposition(f: Tensor, concepts: tuple[str, ...], measure: str) -> Decomposition:
    """Decompose replicates ``f`` [G, 3, h, w]; the measure acts on pixels for maps, on totals for the image.

    Only the image is corrected for the bias of the minimum. A pixel's two values lie within their noise of each other
    almost everywhere: there the correction adds more variance than it removes bias, and uniqueness maps tell the two
    things of a held-out scene apart less well with it than without.
    """
    subsets = subsets_of(concepts)[1:]

    def atoms(replicates: Tensor, corrected: bool) -> tuple[Atoms, Atoms]:
        by_subset = {s: replicates[:, i] for i, s in enumerate(subsets)}
        return decompose_replicates(by_subset, measure, corrected=corrected, coarse=True)

    pixel, pixel_error = atoms(f, False)
    image, error = atoms(f.sum((-2, -1)), True)

    def estimate(value: Tensor, err: Tensor) -> Estimate:
        return Estimate(float(value), float(err), len(f) - 1)

    return Decomposition(
        {s: estimate(value, error.information[s]) for s, value in image.information.items()},
        estimate(image.redundancy, error.redundancy),
        {c: estimate(value, error.unique[c]) for c, value in image.unique.items()},
        estimate(image.synergy, error.synergy),
        _maps(pixel, _maps(pixel_error)),
    )


def _maps(atoms: Atoms, errors: Maps | None = None) -> Maps:
    return Maps(
        {s: value.float() for s, value in atoms.information.items()},
        atoms.redundancy.float(),
        {c: value.float() for c, value in atoms.unique.items()},
        atoms.synergy.float(),
        errors,
    )


@dataclass(frozen=True)
class Facts:
    """How a result came about.

    ``rounding_bias``: {estimator: {"cow+giraffe": nats}}, how much more i(x; y_S) is in ``precision`` than in float32,
    measured on the first picture that the explainer saw. ``peak_memory`` in bytes: of the GPU, else of the process.
    """

    prompt: str
    concepts: tuple[str, ...]
    context: bool
    conditions: dict[str, str]
    estimator: str
    measure: str
    samples: int
    replicates: int
    unet_evaluations: int
    logsnr_range: tuple[float, float]
    seed: int
    model: str
    precision: str
    version: str
    converged: bool | None = None
    rounding_bias: dict[str, dict[str, float]] | None = None
    peak_memory: int | None = None
    unit: str = field(default="nats", init=False)


@dataclass(frozen=True, repr=False)
class PIDResult:
    """Which word put what into the picture.

    Attributes
    ----------
    facts : prompt, concepts, conditions, seed, model, UNet evaluations, …
    replicates : {estimator: float32 [G, 3, h, w]}, f(S) of (c1,), (c2,), (c1, c2) in nats per latent pixel; every
        number and map below is computed from these
    picture : uint8 [H, W, 3], or None when latents were explained
    """

    facts: Facts
    replicates: Mapping[str, Tensor]
    picture: Tensor | None = None

    @cached_property
    def estimates(self) -> dict[str, Decomposition]:
        """The decomposition by every estimator: "rao-blackwell", "standard", "orthogonal"."""
        return {
            name: decomposition(f.double(), self.facts.concepts, self.facts.measure)
            for name, f in self.replicates.items()
        }

    @property
    def chosen(self) -> Decomposition:
        """The decomposition by ``facts.estimator``; the properties below are its fields."""
        return self.estimates[self.facts.estimator]

    @property
    def redundancy(self) -> Estimate:
        """What both concepts tell."""
        return self.chosen.redundancy

    @property
    def unique(self) -> dict[str, Estimate]:
        """What each concept alone tells."""
        return self.chosen.unique

    @property
    def synergy(self) -> Estimate:
        """What only both together tell."""
        return self.chosen.synergy

    @property
    def information(self) -> dict[Subset, Estimate]:
        """i(x; y_S) of every subset S."""
        return self.chosen.information

    @property
    def maps(self) -> Maps:
        """The same, per latent pixel."""
        return self.chosen.maps

    def coarse(self) -> bool:
        """Whether rounding biases some i(x; y_S) by more than half its standard error."""
        bias = (self.facts.rounding_bias or {}).get(self.facts.estimator, {})
        return any(abs(bias.get("+".join(s), 0.0)) > e.stderr / 2 for s, e in self.information.items())

    def remarks(self, level: float = 0.95) -> list[str]:
        """Where a concept misleads about this picture, and where two estimators disagree, beyond their errors."""
        lines = []
        for subset, estimate in self.information.items():
            if estimate.interval(level)[1] < 0:
                lines.append(
                    f"{' + '.join(subset)!r} misleads about this picture: {estimate} nats, below zero beyond its error"
                )
        difference = (self.replicates["rao-blackwell"] - self.replicates["standard"]).double().sum((-2, -1))
        gaps = {
            " + ".join(subset): Estimate(float(value), float(error), len(difference) - 1)
            for subset, value, error in zip(self.information, *mean_stderr(difference), strict=True)
        }
        beyond = [f"{name} by {gap}" for name, gap in gaps.items() if not _holds_zero(gap.interval(level))]
        if beyond:
            lines.append(
                f"rao-blackwell and standard disagree ({', '.join(beyond)} nats): all concepts together do not "
                "describe this picture as the model would; trust the maps for where, and standard for how much"
            )
        if self.coarse():
            lines.append(
                f"rounding in {self.facts.precision} biases a number by more than half its standard error: use float32"
            )
        if self.facts.converged is False:
            lines.append("the tolerance was not reached: raise --samples, or accept the errors shown")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All numbers and facts, ready for JSON."""
        facts = asdict(self.facts)
        return (
            {k: facts.pop(k) for k in ("prompt", "concepts", "context", "unit", "estimator", "measure")}
            | self.chosen.to_dict()
            | {"estimators": {name: d.to_dict() for name, d in self.estimates.items()}}
            | facts
            | {"remarks": self.remarks()}
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file: replicates, picture, the chosen maps, and all facts as metadata."""
        from safetensors.torch import save_file

        tensors = {f"replicates/{name}": f.float().cpu().contiguous() for name, f in self.replicates.items()}
        if self.picture is not None:
            tensors["picture"] = self.picture.contiguous()
        for prefix, maps in (("maps", self.maps), ("maps/stderr", self.maps.stderr)):
            if maps is None:
                continue
            tensors |= {f"{prefix}/redundancy": maps.redundancy, f"{prefix}/synergy": maps.synergy}
            tensors |= {f"{prefix}/unique/{c}": t for c, t in maps.unique.items()}
            tensors |= {f"{prefix}/information/{'+'.join(s)}": t for s, t in maps.information.items()}
        metadata = {"format": FORMAT, "facts": json.dumps(asdict(self.facts)), "result": json.dumps(self.to_dict())}
        # Written beside and moved: a reader never sees half a file.
        partial = Path(f"{path}.partial")
        save_file({k: t.cpu().contiguous() for k, t in tensors.items()}, partial, metadata)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> PIDResult:
        """Read what :meth:`save` wrote; ``ValueError`` if the file is something else."""
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ValueError(f"path: {path} does not exist")
        try:
            with safe_open(path, framework="pt") as f:
                metadata = f.metadata() or {}
                names = [k for k in f.keys() if not k.startswith("maps/")]  # noqa: SIM118
                tensors = {k: f.get_tensor(k) for k in names}
        except SafetensorError as error:
            raise ValueError(f"path: {path} is not a safetensors file ({error})") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"path: {path} is not a dpid result of format {FORMAT}")
        stored = json.loads(metadata["facts"])
        stored.pop("unit")
        stored |= {k: tuple(stored[k]) for k in ("concepts", "logsnr_range")}
        replicates = {k.removeprefix("replicates/"): t for k, t in tensors.items() if k.startswith("replicates/")}
        return cls(Facts(**stored), replicates, tensors.get("picture"))

    def plot(self) -> Figure:
        """The picture, R, U1, U2 and S side by side on one colour scale."""
        from dpid.plot import plot_maps

        return plot_maps(self)

    def __repr__(self) -> str:
        unique = ", ".join(f"unique[{c!r}] {e}" for c, e in self.unique.items())
        return (
            f"PIDResult({self.facts.prompt!r}, {self.facts.estimator}, {self.facts.unit}: "
            f"redundancy {self.redundancy}, {unique}, synergy {self.synergy}; "
            f"{self.facts.unet_evaluations} UNet evaluations)"
        )
