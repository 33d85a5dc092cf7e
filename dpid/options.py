"""What :meth:`dpid.Explainer.explain` may be asked for, checked before anything is computed.

An option is declared once, as a field of :class:`Options`: its default, its check, its description, and whether
``dpid explain`` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypedDict

from dpid.checks import Check, count, found, fraction, one_of, optional, positive, text, truth

if TYPE_CHECKING:
    from dpid.prompts.plan import Subset

LEVELS = ("image", "pixel", "logsnr")
_MOST = 2**20  # evaluations of a condition: a day on a fast GPU
# What people know from the pipeline's own call, and expect here too.
_PIPELINE = {
    "clip_skip", "cross_attention_kwargs", "denoising_end", "eta", "generator", "guidance_rescale", "guidance_scale",
    "height", "ip_adapter_image", "negative_prompt", "negative_prompt_embeds", "num_frames", "num_images_per_prompt",
    "num_inference_steps", "output_type", "prompt_2", "prompt_embeds", "sigmas", "strength", "timesteps", "width",
}  # fmt: skip
# Those of a pipeline that :class:`dpid.denoisers.NetworkDenoiser` has.
OF_PIPELINES = "check", "compile", "control", "control_scale", "frames", "fused", "guidance", "size"
_MODEL = {*OF_PIPELINES, "precision"}
_LOADING = {"device", "dtype", "torch_dtype"}


def option(default: Any, check: Check, description: str, *, more: str = "", flag: type | None = None) -> Any:
    """A field of :class:`Options`.

    Parameters
    ----------
    check : (name, value) -> the value as plain Python, or an error that names the option
    description : for the command line's help and, followed by ``more``, for readers of Python
    flag : the type that ``dpid explain --name`` reads; None: the command line does not have the option
    """
    return field(default=default, metadata={"check": check, "help": description, "more": more, "flag": flag})


# Importing these takes a second, which the command line's help need not wait for.
def _estimators() -> Sequence[str]:
    from dpid.estimation.estimators import ESTIMATORS

    return ESTIMATORS


def _rules() -> Sequence[str]:
    from dpid.estimation.sampling import RULES

    return ("auto", *RULES, "learning")


def _smooth(name: str, value: Any) -> int:
    side: int = count(1, 99)(name, value)  # the maps of the largest models are 128 pixels a side
    if side % 2 == 0:
        raise ValueError(f"{name}: found {side}, expected an odd number of pixels")
    return side


def _reference(name: str, value: Any) -> str:
    reference = text(name, value)
    if not reference.strip():
        raise ValueError(f"{name}: found an empty text, allowed are 'concepts', 'prompt', or a text")
    if reference.lower() in ("concepts", "prompt") and reference != reference.lower():
        raise ValueError(f"{name}: found {reference!r}, allowed are 'concepts', 'prompt', or a text")
    return reference


def _measure(name: str, value: Any) -> str:
    from dpid.pid import picture_measures

    measure = text(name, value)
    if measure not in picture_measures():
        allowed = ", ".join(picture_measures())
        raise ValueError(f"{name}: found {found(measure)}, allowed for one picture are {allowed}")
    return measure


def _priors(name: str, value: Any) -> Any:
    if not isinstance(value, (Mapping, str, type(None))):
        raise TypeError(f"{name}: found {found(value)}, expected a text or {{subset: nats}}")
    return value  # its numbers are checked with the concepts that they are of


@dataclass(frozen=True)
class Options:
    """Options of an explanation, kept as plain Python values.

    A number or text of NumPy, pandas or PyTorch counts as what it holds. ``ValueError`` or ``TypeError`` names an
    option that is out of range, or of another kind.
    """

    context: bool = option(
        False,
        truth,
        "Condition on the rest of the prompt (CPID), instead of words against the empty prompt (PID)",
        flag=bool,
    )
    reference: str = option(
        "concepts",
        _reference,
        'What describes the picture best: "concepts" (all of them), "prompt", or a text',
        more="it is the F of the Rao–Blackwellised estimator",
        flag=str,
    )
    estimator: str = option(
        "shrinkage",
        one_of(_estimators),
        'Whose numbers stand first: "shrinkage", which is "standard" moved towards "rao-blackwell" as far as noise '
        'explains that they differ, one of those two, or "orthogonal"; all are computed',
        flag=str,
    )
    measure: str = option(
        "min",
        _measure,
        'Redundancy measure: "min", "i_ccs_plugin", or with priors "ppid" or "i_sx"',
        more="see :func:`dpid.pid.decompose`",
        flag=str,
    )
    priors: Mapping[Subset, Any] | str | None = option(
        None,
        _priors,
        'h(y) of the words, for "ppid" and "i_sx": "uniform", or "mlm:<model>"',
        more="or {S: h(y_S) in nats}",
        flag=str,
    )
    level: str = option(
        "image",
        one_of(lambda: LEVELS),
        'What the measure acts on for the numbers of the whole image: "image", the totals; "pixel", every latent pixel '
        'of the maps; "logsnr", the image in every bin of log-SNR',
        more="by pixel the numbers are the sums of the maps. A minimum is concave, so the redundancy of a finer level "
        "is the smaller one. Maps are always by pixel",
        flag=str,
    )
    smooth: int = option(
        3,
        _smooth,
        "Maps are means over this many pixels a side; 1 for none",
        more='taken of i(x; y_S) before the measure acts. Those of "shrinkage" and "rao-blackwell" are then laid out '
        "like iˢ's where they differ beyond noise, unless it is 1",
        flag=int,
    )
    samples: int = option(
        32,
        count(1, _MOST),
        "Evaluations of every condition, rounded up to a multiple of ``replicates``, twice that if antithetic",
    )
    replicates: int | None = option(
        None,
        optional(count(2, 2**12)),
        "Repeats, from whose spread the errors come; None: eight, or four where eight have less than a noise each",
        more="of the same samples eight tell an error of more degrees of freedom: in a 95 % interval 2.4 of them, of "
        "four 3.2",
    )
    rule: str = option(
        "auto",
        one_of(_rules),
        'Which log-SNRs, one of :mod:`dpid.estimation.sampling`; "adaptive" needs :attr:`dpid.Explainer.density`; '
        '"learning" places every round by what all rounds before it showed, of this picture and of earlier ones; '
        '"auto" is "adaptive" where there is a density, else "learning"',
    )
    antithetic: bool = option(True, truth, "Use each noise with both signs")
    tolerance: float | None = option(
        None,
        optional(fraction),
        "Add samples until the 95 % interval of i(x; all concepts) is within this fraction of it, 0.05 for 5 %",
        more="once it is within √2 times that, after 1, 2, 3, 4, 6, 8, 12, … rounds of ``samples``, as many again are "
        "added before it is looked at",
        flag=float,
    )
    max_samples: int = option(1024, count(1, _MOST), "Where ``tolerance`` and :meth:`dpid.Explainer.stream` stop")
    seed: int = option(
        0,
        count(0, 2**63 - 1),
        "Of noise and log-SNRs",
        more='the global random state is neither read nor changed. Under rule "learning" equal seeds draw equal '
        "samples only after equal calls",
        flag=int,
    )
    max_batch_size: int | None = option(
        None, optional(count(1, _MOST)),
        "Evaluations of the network in one call; None: as many as run fastest and fit the free memory",
    )  # fmt: skip

    def __post_init__(self) -> None:
        for option in fields(self):
            value = option.metadata["check"](option.name, getattr(self, option.name))
            object.__setattr__(self, option.name, value)
        if self.tolerance is not None:
            self.check_rounds()
        self._check_priors()

    def _check_priors(self) -> None:
        from dpid.pid.decomposition import find

        needs = find(self.measure).priors
        if needs and self.priors is None:
            raise ValueError(f"priors: {self.measure!r} needs them: 'uniform', 'mlm:<model>', or {{subset: nats}}")
        if self.priors is not None and not needs:
            raise ValueError(f"priors: the measure {self.measure!r} takes none")

    @classmethod
    def from_keywords(cls, options: Mapping[str, Any]) -> Options:
        """The options that a caller named; ``TypeError`` says of a name that is none what may be meant."""
        check_allowed(options, [field.name for field in fields(cls)], "a picture is explained")
        return cls(**options)

    def check_rounds(self) -> None:
        """``ValueError`` where ``max_samples`` are fewer than those of one round."""
        if self.max_samples < self.samples:
            raise ValueError(f"max_samples: found {self.max_samples}, expected at least samples = {self.samples}")

    def check_maps(self, height: int, width: int) -> None:
        """``ValueError`` where maps of ``height`` × ``width`` latent pixels are smaller than ``smooth``."""
        if self.smooth > max(height, width, 3):  # which is the default, and fits any map
            raise ValueError(
                f"smooth: found {self.smooth}, expected at most the {max(height, width)} latent pixels of a side of "
                "the maps"
            )

    @property
    def repeats(self) -> int:
        """Replicates."""
        return self.replicates or (8 if self.samples >= 8 * self._step else 4)

    @property
    def _step(self) -> int:
        """What the samples of a replicate are a multiple of."""
        return 2 if self.antithetic else 1

    @property
    def points(self) -> int:
        """Log-SNRs of a round."""
        return self.per_round // 2 if self.antithetic else self.per_round

    @property
    def per_replicate(self) -> int:
        """Samples of a replicate in a round."""
        return self._step * -(-self.samples // (self._step * self.repeats))

    @property
    def per_round(self) -> int:
        """Samples of a round."""
        return self.per_replicate * self.repeats

    @property
    def rounds(self) -> int:
        """The most rounds."""
        return max(1, self.max_samples // self.per_round)


def check_allowed(options: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    """Raise ``TypeError`` for one of ``options`` that is none, or says nothing ``where`` it is; returns nothing."""
    known = {field.name for field in fields(Options)}
    for name in options:
        if name in known and name not in allowed:
            raise TypeError(f"{name}: is not taken where {where}; allowed are {', '.join(allowed)}")
        if name not in allowed:
            raise TypeError(_unknown(name, allowed))


def _unknown(name: str, allowed: Sequence[str]) -> str:
    """What to tell of ``name``, which is no option, where the ``allowed`` ones may be given."""
    if name in _PIPELINE:
        return (
            f"{name}: belongs to the pipeline's own call, dpid takes none: no picture is made, and the network is "
            "asked with every condition as it is"
        )
    if name in _MODEL:
        return f"{name}: is chosen with the model, in dpid.Explainer(…) or its from_pretrained(…)"
    if name in _LOADING:
        return f"{name}: is that of the model, chosen in dpid.Explainer.from_pretrained(…) or by the pipeline's to(…)"
    if name == "seconds":
        return "seconds: belongs to words; to end an explanation early use stop="
    if name == "margin":
        return "margin: belongs to words, which judges every word"
    near = get_close_matches(name, allowed, 1)
    return f"{name}: is no option; " + (f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}")


def _described(option: Field[Any]) -> str:
    """An entry of the docstring of :class:`Options`."""
    description = "; ".join(filter(None, (option.metadata["help"], option.metadata["more"])))
    return fill(f"{option.name} : {description}", 116, initial_indent=" " * 4, subsequent_indent=" " * 8)


Options.__doc__ = "\n".join([f"{Options.__doc__}\n    Attributes\n    ----------", *map(_described, fields(Options))])


# What type checkers know of the options, by the methods that take them as keywords.
class SamplingOptions(TypedDict, total=False):
    """The options that say how to sample."""

    samples: int
    replicates: int | None
    rule: str
    antithetic: bool
    seed: int
    max_batch_size: int | None


class WordsOptions(SamplingOptions, total=False):
    """The options of :meth:`dpid.Explainer.words`: some of :class:`Options`, and those of :class:`Budget`."""

    estimator: str
    smooth: int
    seconds: float | None
    margin: float


class ExplainOptions(SamplingOptions, total=False):
    """All of :class:`Options`."""

    context: bool
    reference: str
    estimator: str
    measure: str
    priors: Mapping[Subset, Any] | str | None
    level: str
    smooth: int
    tolerance: float | None
    max_samples: int


@dataclass(frozen=True)
class Budget:
    """When the search for what every word does ends, and what counts as nothing.

    ``ValueError`` or ``TypeError`` names what is not allowed.

    Attributes
    ----------
    samples : most evaluations of a condition before the last round, which names partners
    seconds : time after which no further round begins, or None
    margin : what counts as nothing, as a share of what a word tells on average, i(x; prompt) / the number of words
    """

    samples: int = 256
    seconds: float | None = None
    margin: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", count(1, _MOST)("samples", self.samples))
        object.__setattr__(self, "margin", fraction("margin", self.margin))
        if self.seconds is not None:
            object.__setattr__(self, "seconds", positive("seconds", self.seconds))
