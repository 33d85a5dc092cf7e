"""Are the verdicts on words right? On fresh scenes of the emoji world, where it is known what every word does.

``python benchmarks/bench_words.py [--model emoji-flow]`` judges the words of what this commit has not yet
put into build/words, prints and records in the ledger.

A scene of one or two things is asked about with a prompt of four kinds: true ("a cow and a giraffe"); with an absent
thing for one that is shown or beside the only one; with both synonyms of a thing ("a sofa couch"); with a homonym and
the modifier of the sense that is shown ("a computer mouse"). Right is: "used" of a true word; "misleading" or "ignored"
of an absent one; "redundant" of a synonym, with the other; "works only with" of a modifier, with the homonym. A homonym
itself may be either, since in the world it tells more than half of what it tells with the modifier.
"""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import ledger
import typer

import dpid
from dpid.studies import world
from dpid.zoo.emoji import scenes

WORK = Path(__file__).parents[1] / "build" / "words"
SEED = "fresh verdicts"  # of the scenes; nothing else draws from it, and no rule was chosen by looking at them
KINDS = ("true", "absent", "synonym", "homonym")
ONE = 0.3  # share of scenes of a single thing
# {role of a word: the verdicts that are right}
RIGHT = {
    "true": {"used"}, "absent": {"misleading", "ignored"}, "synonym": {"redundant"},
    "modifier": {"works only with others"}, "homonym": {"used", "works only with others"},
}  # fmt: skip
Scene = tuple[tuple[str, ...], str, dict[str, str]]


def scene(number: int, seed: str) -> Scene:
    """What scene ``number`` shows, the prompt, and {word: role}."""
    rng, kind = random.Random(f"{seed} {number}"), KINDS[number % len(KINDS)]
    while True:
        a, b, wrong = rng.sample(list(scenes.THINGS), 3)
        if kind == "synonym":
            a = rng.choice([name for name, (_, words) in scenes.THINGS.items() if len(words) == 2])
        elif kind == "homonym":
            word = rng.choice(list(scenes.HOMONYMS))
            modifier = rng.choice(scenes.HOMONYMS[word])[0]
            a = f"{modifier} {word}" if scenes.BEFORE.get(word, True) else f"{word} {modifier}"
        if len({a, b, wrong}) == 3 and scenes.allowed(a, b):
            break
    shown = (a,) if rng.random() < ONE else (a, b)
    if kind == "homonym":
        phrase, roles = a, {modifier: "modifier", word: "homonym"}
    else:
        words = scenes.THINGS[a][1] if kind == "synonym" else scenes.THINGS[a][1][:1]
        phrase, roles = " ".join(words), dict.fromkeys(words, "synonym" if kind == "synonym" else "true")
    second = wrong if kind == "absent" else b if len(shown) == 2 else None
    if second is None:
        return shown, f"a {phrase}", roles
    other = scenes.THINGS[second][1][0]
    return shown, f"a {phrase} and a {other}", roles | {other: "absent" if kind == "absent" else "true"}


def judged(explainer: dpid.Explainer, number: int, seed: str) -> list[dict[str, object]]:
    """The verdict on every word of a scene, as :meth:`dpid.Explainer.words` gives it."""
    shown, prompt, roles = scene(number, seed)
    result = explainer.words(world.picture(shown, f"{seed} {number}"), prompt, tuple(roles), seed=number)
    return [
        {"number": number, "prompt": prompt, "shown": shown, "word": word, "role": role,
         "evaluations": result.unet_evaluations} | result.words[word].to_dict()
        for word, role in roles.items()
    ]  # fmt: skip


def right(row: dict[str, object], rows: list[dict[str, object]]) -> bool:
    """Whether the verdict of ``row`` is right, and names the right word; ``rows`` are those of its scene."""
    partners = {"synonym": ("synonym",), "modifier": ("homonym",)}.get(str(row["role"]), ())
    named = [other["word"] for other in rows if other["role"] in partners and other is not row]
    return row["verdict"] in RIGHT[str(row["role"])] and (not named or row["with"] in named)


def main(
    model: Annotated[str, typer.Option(help="Embedded model to measure.")] = "emoji",
    count: Annotated[int, typer.Option(help="Scenes.")] = 200,
    seed: Annotated[str, typer.Option(help="Of the scenes; for another than that of the ledger nothing is recorded.")]
    = SEED,
) -> None:  # fmt: skip
    """Judge every word of the scenes; print what is wrong and the shares that are right, and record these."""
    explainer = dpid.Explainer.from_pretrained(model).at("float32")
    folder = ledger.kept(WORK) / ledger.fingerprint(model) / seed
    folder.mkdir(parents=True, exist_ok=True)
    held, scenes_right, evaluations = defaultdict(list), [], []
    for number in range(count):
        path = folder / f"{number}.json"
        if not path.exists():
            path.write_text(json.dumps(judged(explainer, number, seed)))
        rows = json.loads(path.read_text())
        evaluations.append(rows[0]["evaluations"])
        for row in rows:
            held[row["role"]].append(right(row, rows))
            if not held[row["role"]][-1]:
                print(f"{number}: “{row['prompt']}”, {row['role']} {row['word']!r}: {row['verdict']} {row['with']}")
        scenes_right.append(all(right(row, rows) for row in rows))
    every = [ok for several in held.values() for ok in several]
    found = [
        ledger.share(role, "verdicts on words that are right", sum(ok) / len(ok), len(ok))
        for role, ok in [*held.items(), ("all", every)]
    ]
    found.append(ledger.share("all", "scenes of which every verdict is right", sum(scenes_right) / count, count))
    found.append({"case": "all", "metric": "evaluations of the network for a scene",
                  "value": sum(evaluations) / count, "n": count})  # fmt: skip
    if seed == SEED:
        ledger.record(ledger.of_model("words", model), found, model)
    else:
        print(*found, sep="\n")


if __name__ == "__main__":
    typer.run(main)
