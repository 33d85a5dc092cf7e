"""Study of homonyms: the synergy of a homonym and a modifier, such as "mouse" and "computer".

It is high where the modifier selects the sense that the picture shows, about zero for a word that selects none, and
below zero for the modifier of the other sense ("computer mouse" for a picture of the animal, which in generated
pictures is a failure of the model). The last shows in the standard estimator only: the Rao–Blackwell estimator assumes
that the text of both words describes the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dpid.estimation.estimators import ESTIMATORS
from dpid.results.figure_style import Figure
from dpid.results.result import PIDResult
from dpid.studies import figures, words, world
from dpid.studies.study import Row, Study, bootstrap, column, grouped, median, proportion, told
from dpid.studies.workbench import Case, Workbench
from dpid.zoo.emoji import scenes

_EACH = 6  # pictures of every sense
_NEUTRAL = "a"  # the word of the embedded model's vocabulary that adds no meaning


def _texts(word: str, modifier: str, after: bool) -> dict[tuple[str, ...], str]:
    """Conditions {subset: text} of a homonym and a modifier, which stands ``after`` it or before."""
    both = f"{word} {modifier}" if after else f"{modifier} {word}"
    return {(): "", (word,): word, (modifier,): modifier, (word, modifier): both}


def _embedded(each: int) -> Iterator[Case]:
    """Cases of drawn pictures of every sense, of which it is known which sense they show."""
    for word, senses in scenes.HOMONYMS.items():
        for (right, _, _), (wrong, _, _) in (senses, senses[::-1]):
            after = not scenes.BEFORE.get(word, True)
            shown = _texts(word, right, after)[word, right]
            for i in range(each):
                picture = f"{shown} {i}"
                for role, modifier in (("right", right), ("wrong", wrong), ("neutral", _NEUTRAL)):
                    yield Case(
                        picture, partial(world.picture, (shown,), picture),
                        shown, (word, modifier), _texts(word, modifier, after and role != "neutral"),
                        columns={"word": word, "modifier": modifier, "role": role},
                    )  # fmt: skip


def _real(bench: Workbench) -> Iterator[Case]:
    """Cases of generated pictures of every sense; which sense they do show is left to who looks at the figure."""
    for word, *senses in words.HOMONYMS:
        for right, wrong in (senses, senses[::-1]):
            for i in range(bench.pictures or 1):
                prompt = words.one(f"{right} {word}")
                picture = f"{prompt} {i}"
                for role, modifier in (("right", right), ("wrong", wrong), ("neutral", words.NEUTRAL)):
                    yield Case(
                        picture, partial(bench.generate, prompt, picture), prompt, (word, modifier),
                        _texts(word, modifier, False), columns={"word": word, "modifier": modifier, "role": role},
                    )  # fmt: skip


def _own(bench: Workbench) -> Iterator[Case]:
    """Cases of the user's pictures, whose first concept is the homonym and the second its modifier."""
    for case in bench.own_cases():
        word, modifier = case.concepts
        neutral = _NEUTRAL if bench.embedded else words.NEUTRAL
        if modifier == neutral:
            continue  # nothing to compare it with
        for role, other in (("right", modifier), ("neutral", neutral)):
            yield Case(
                case.picture, case.image, case.prompt, (word, other), _texts(word, other, False),
                columns={"word": word, "modifier": other, "role": role}, row=case.row,
            )  # fmt: skip


def homonyms(bench: Workbench) -> Study:
    """The synergy of a homonym with the modifier of the sense shown, with that of another sense, with a neutral word.

    ``homonyms.csv`` has a row for every picture, modifier and estimator.
    """
    if bench.scenes:
        cases = list(_own(bench))
    else:
        cases = list(_embedded(bench.pictures or _EACH) if bench.embedded else _real(bench))

    def measure(case: Case) -> list[Row]:
        result = bench.explain(case)
        word, modifier = case.concepts
        return [
            {
                "estimator": name, "synergy": d.synergy.value, "synergy_stderr": d.synergy.stderr,
                "information_word": d.information[(word,)].value,
                "information_modifier": d.information[(modifier,)].value,
                "information_both": d.information[word, modifier].value,
                "information_both_stderr": d.information[word, modifier].stderr,
            }
            for name, d in result.estimates.items()
        ]  # fmt: skip

    rows = bench.measure(cases, measure)
    summary = _summary(rows)
    made = _figures(bench, bench.usable(cases), rows)
    return Study("homonyms", {"homonyms": rows}, made, summary, _finding(summary))


def _summary(rows: list[Row]) -> dict[str, Row]:
    """How often the right modifier has the highest synergy, and the median synergies."""
    summary = {}
    for (name,), same in grouped(rows, "estimator").items():
        asked = "≥ 0.9" if name == ESTIMATORS[0] else None
        by_picture = [{r["role"]: r["synergy"] for r in of} for of in grouped(same, "picture").values()]
        hits = [p["right"] > p["neutral"] for p in by_picture]
        summary[f"synergy of the right modifier above a neutral word's, {name}"] = proportion(hits, asked)
        wrong = [p["right"] > p["wrong"] for p in by_picture if "wrong" in p]
        if wrong:
            summary[f"synergy of the right modifier above the wrong one's, {name}"] = proportion(wrong)
        for (role,), of in grouped(same, "role").items():
            summary[f"synergy in nats, median, {role} modifier, {name}"] = bootstrap(median, column(of, "synergy"))
    return summary


def _finding(summary: dict[str, Row]) -> str:
    """How often synergy tells the modifier of the sense that the picture shows."""
    neutral = summary[f"synergy of the right modifier above a neutral word's, {ESTIMATORS[0]}"]
    wrong = summary.get(f"synergy of the right modifier above the wrong one's, {ESTIMATORS[0]}")
    other = f", and more than with that of another sense in {told(wrong, '.0%')}" if wrong else ""
    return (
        "A homonym has more synergy with the modifier of the sense shown than with a neutral word in "
        f"{told(neutral, '.0%')} of the pictures{other}."
    )


def _figures(bench: Workbench, cases: list[Case], rows: list[Row]) -> dict[str, Figure]:
    """The synergies by role of the modifier, and the maps of one picture with every modifier."""
    default = [r for r in rows if r["estimator"] == ESTIMATORS[0]]
    by_role = {role: column(of, "synergy") for (role,), of in grouped(default, "role").items()}
    shown: dict[str, PIDResult] = {}
    for case in [case for case in cases if case.picture == cases[0].picture]:  # one picture with every modifier
        shown[f"{case.columns['role']}: {' + '.join(case.concepts)}"] = bench.explain(case)
    return {
        "Synergy of a homonym and a modifier, nats; a dot a picture": figures.strips(by_role, "synergy, nats"),
        f"“{cases[0].prompt}” with its own and other modifiers": figures.maps(shown),
    }
