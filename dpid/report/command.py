"""The command that asks of a picture what a result tells of its own; None where there are no options for that."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from dpid.denoisers.families.control_net import Controlled
from dpid.options import Budget, Options
from dpid.pid.decomposition import image_priors
from dpid.prompts.phrases import span_of
from dpid.prompts.plan import plan_concepts
from dpid.prompts.words import content_words
from dpid.results.metadata import Metadata
from dpid.results.result import PIDResult
from dpid.results.words import WordsResult
from dpid.words import margin_of


def of_concepts(result: PIDResult) -> str | None:
    """The command for a result of chosen concepts."""
    metadata = result.metadata
    if not _usual(metadata):
        return None
    try:
        plan = plan_concepts(metadata.prompt, metadata.concepts, context=metadata.context)
    except ValueError:
        return None
    texts = {"+".join(s): plan.texts[k] for s, k in zip(plan.subsets, plan.index, strict=True)}
    uniform = image_priors("uniform", metadata.concepts, metadata.measure, metadata.prompt) if metadata.priors else {}
    priors = {"+".join(s): nats for s, nats in (uniform or {}).items()}
    if texts != metadata.conditions or (metadata.priors or {}) != priors:
        return None
    asked = [word for concept in metadata.concepts for word in ("-c", concept)]
    asked += ["--samples", str(metadata.samples), "--seed", str(metadata.seed)]
    asked += ["--context"] if metadata.context else []
    asked += ["--priors", "uniform"] if priors else []
    names = ["estimator", "measure", "level", "smooth"]
    names += ["reference"] if metadata.reference != texts["+".join(metadata.concepts)] else []
    return _line(metadata, asked, names)


def of_words(result: WordsResult) -> str | None:
    """The command for a result of every word, which the command line finds in the prompt by itself."""
    metadata, names = result.metadata, tuple(result.words)
    # Some words without another one, that misleads: how many rounds there were before is not known.
    anew = any(word.pid.metadata.reference != metadata.prompt for word in result.words.values())
    if not _usual(metadata) or (anew and not result.settled):
        return None
    try:
        found = content_words(metadata.prompt)
    except ValueError:
        return None
    margin = margin_of({name: span_of(metadata.prompt, name) for name in found}, Budget.margin)
    if found != names or any(word.margin != margin for word in result.words.values()):
        return None
    limit = [] if anew else ["--samples", str(metadata.samples)]  # settled words need none
    return _line(metadata, [*limit, "--seed", str(metadata.seed)], ("estimator", "smooth"))


def _usual(metadata: Metadata) -> bool:
    """Whether the command line samples as the result was sampled, and can load its model for a picture."""
    usual = Options(samples=metadata.samples)
    sampled = metadata.rule in ("adaptive", "learning") and metadata.antithetic == usual.antithetic
    pipeline = metadata.model.endswith("Pipeline")  # one that was given in Python, of which only its class is known
    more = metadata.frames or pipeline or Controlled.beside in metadata.caveat  # whose pictures are not known either
    return sampled and metadata.replicates == usual.repeats and not more


def _line(metadata: Metadata, asked: Sequence[str], names: Sequence[str]) -> str:
    """The command with what is ``asked``, and the options of these ``names`` that are not as they are by default."""
    words = ["dpid", "explain", *asked, "--model", metadata.model]
    for name in names:
        value = getattr(metadata, name)
        if value != getattr(Options, name):
            words += [f"--{name}", str(value)]
    words += ["--"] if metadata.prompt.startswith("-") else []
    return shlex.join([*words, "PICTURE", metadata.prompt])
