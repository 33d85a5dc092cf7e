"""What every word of a prompt tells about a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.files import PathLike
from dpid.prompts.phrases import remarks_on
from dpid.results.by_subset import ByName
from dpid.results.metadata import NOT_CORRECTED, Metadata
from dpid.results.result import PIDResult
from dpid.results.word import REST, Word, verdict

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure


@dataclass(frozen=True, eq=False, repr=False)
class WordsResult(Comparable):
    """What every word and phrase of a prompt tells about a picture.

    Attributes
    ----------
    words : {word: :class:`Word`}, in the order of the prompt, a phrase before its words
    unet_evaluations : evaluations of the denoiser that all words took together
    """

    words: Mapping[str, Word]
    unet_evaluations: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", ByName(self.words))

    @property
    def verdicts(self) -> dict[str, str]:
        """{word: verdict}, such as "used" or "redundant with couch"; of words in :attr:`unsettled` it may change."""
        return {name: word.told for name, word in self.words.items()}

    @property
    def picture(self) -> Tensor | None:
        """The picture, uint8 [H, W, 3], or None when latents were explained."""
        return next(iter(self.words.values())).pid.picture

    @property
    def settled(self) -> bool:
        """Whether no verdict would change with more samples."""
        return not self.unsettled

    @property
    def unsettled(self) -> tuple[str, ...]:
        """The words whose verdicts more samples may change."""
        return tuple(name for name, word in self.words.items() if not word.settled)

    @cached_property
    def metadata(self) -> Metadata:
        """Prompt, settings and cost; ``conditions`` has every word, and what is left of the prompt without it.

        ``reference`` is the prompt; every word's own metadata has what is left of it without words that mislead.
        """
        first = next(iter(self.words.values())).pid.metadata
        texts = {"": first.conditions[""]}
        for name, word in self.words.items():
            texts |= {name: word.pid.metadata.conditions[name], f"without {name}": word.pid.metadata.conditions[REST]}
        return replace(
            first, concepts=tuple(self.words), conditions=texts, reference=first.prompt, correction=None,
            samples=max(word.pid.metadata.samples for word in self.words.values()),
            paired=max(word.pid.metadata.paired for word in self.words.values()),
            unet_evaluations=self.unet_evaluations,
        )  # fmt: skip

    def remarks(self) -> list[str]:
        """What to know of the numbers: what limits the model, words that mislead or are ignored, what is not settled.

        Also syntax of other programs in the prompt, and rounding that is not known.
        """
        words, metadata = self.words.values(), self.metadata
        lines = [metadata.caveat] if metadata.caveat else []
        if metadata.distilled:
            lines.append(
                "numbers and verdicts are of how words steer the model, in arbitrary units and not in nats, since "
                f"{metadata.distilled}"
            )
        else:
            # Of the word with most samples: a word that misleads was asked beside a prompt that is wrong.
            right = [word for word in words if word.verdict != "misleading"] or [*words]
            lines += max(right, key=lambda word: word.pid.metadata.samples).pid.diagnostics.remarks()
        misled = [repr(word.text) for word in words if word.verdict == "misleading"]
        if misled and not metadata.distilled:
            told = f"{', '.join(misled)} {'speaks' if len(misled) == 1 else 'speak'} against this picture"
            if any(word.pid.metadata.reference != metadata.prompt for word in words):
                told += "; the other words are asked beside a prompt without what does so by itself"
            lines.append(told)
        if ignored := [word for word in words if word.verdict == "ignored"]:
            most = max(ignored, key=lambda word: word.nothing)
            lines.append(
                f"{', '.join(repr(word.text) for word in ignored)}: ignored, since up to ± {most.nothing:.2g} "
                f"{metadata.unit} count as nothing, {100 * most.margin:.2g} % of what the prompt tells"
            )
        if self.unsettled:
            lines.append(f"{', '.join(map(repr, self.unsettled))}: not settled; give more samples or more time")
        lines += remarks_on(metadata.prompt)
        if any(word.pid.metadata.correction == {} for word in words):
            lines.append(NOT_CORRECTED.format(metadata.precision))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All numbers and metadata, for JSON."""
        metadata = asdict(self.metadata)
        for name in ("concepts", "context", "priors", "correction", "converged", "conditions", "reference"):
            del metadata[name]
        words = {name: word.to_dict() for name, word in self.words.items()}
        return metadata | {"words": words, "remarks": self.remarks()}

    def save(self, path: PathLike) -> None:
        """Write the result to a safetensors file; errors as of :meth:`dpid.PIDResult.save`."""
        from dpid.results.file_format import write
        from dpid.results.words_file import to_bytes

        write(path, lambda: to_bytes(self.words, self.unet_evaluations, self.to_dict()))

    @classmethod
    def load(cls, path: PathLike) -> WordsResult:
        """The result that :meth:`save` wrote to ``path``; ``ValueError`` says what is wrong with any other file."""
        from dpid.results.file_format import read
        from dpid.results.words_file import from_bytes

        return read(path, lambda data: cls(**from_bytes(data)))

    def plot(self, kind: str = "overlay", ax: Any = None) -> Figure:
        """A figure of what every word adds to the rest of the prompt; ``savefig`` writes PNG, SVG, PDF.

        Parameters
        ----------
        kind : "overlay": the picture, the uniqueness maps over it, and the numbers of "words"; "words": i(x; w) and
            i(x; w | rest) with 95 % intervals and verdicts; "strip": the maps of i(x; w | rest) beside the picture,
            also in place of "overlay" for a video; "profile": i(x; w) and i(x; w | rest) over log-SNR, of the words
            that the overlay draws
        ax : axes of matplotlib to draw into, whose figure is returned: "overlay" draws the maps over the picture alone,
            both panels of "profile" share their place

        Raises
        ------
        ValueError
            There is no such kind.
        TypeError
            ``ax`` is no axes of matplotlib.
        """
        from dpid.results.words_plot import plot

        figure: Figure = plot(self, kind, ax)
        return figure

    def __repr__(self) -> str:
        told = ", ".join(f"{name!r} {verdict(word, '?')}" for name, word in self.words.items())
        return f"WordsResult({self.metadata.prompt!r}: {told}; {self.unet_evaluations} evaluations of the network)"


Result = PIDResult | WordsResult
"""What one explanation returns: of chosen concepts, or of every word."""
