"""Every word of a prompt is judged: what is asked, when a run ends, and what is known of the emoji world."""

from collections import Counter

import bench_words
import pytest
import torch
from made_up import metadata

import dpid
from dpid.options import Budget, Options
from dpid.results.result import PIDResult
from dpid.results.word import REST
from dpid.run import Asked
from dpid.studies import world
from dpid.verdicts import _Rounds
from dpid.words import Search, seed_of

NAMES = ("rao-blackwell", "standard", "orthogonal")


class World:
    """Answers questions from what every text tells of three latent pixels, {text: nats}, and counts who is asked.

    ``noise``: {text: nats} by which the replicates of what it tells vary.
    """

    def __init__(self, prompt, told, noise=None):
        self.prompt, self.told, self.noise = prompt, {"": [0.0] * 3} | told, noise or {}
        self.asked, self.turns, self.evaluations = [], [], Counter()

    def answers(self, plans, turn):
        self.asked.append([plan.concepts[0] for plan in plans])
        self.turns.append(turn)
        self.evaluations.update(plans[0].texts)
        return [self._answer(plan, turn, len(plans[0].texts)) for plan in plans]

    def _answer(self, plan, turn, count):
        f = torch.stack([torch.tensor([self.told[plan.texts[i]]]) for i in plan.index[1:]])
        size = torch.tensor([self.noise.get(plan.texts[i], 0.001) for i in plan.index[1:]])
        spread = torch.randn(8, *f.shape, generator=torch.Generator().manual_seed(turn))
        replicates = f + size[:, None, None] * (spread - spread.mean(0))
        names = dict(zip(map("+".join, plan.subsets), (plan.texts[i] for i in plan.index), strict=True))
        facts = metadata(
            plan.concepts, prompt=self.prompt, conditions=names, reference=plan.texts[plan.full], estimator="shrinkage",
            level="pixel", smooth=1, rule="adaptive", samples=32, replicates=8, unet_evaluations=32 * count, seed=turn,
        )  # fmt: skip
        return PIDResult(
            facts, {name: replicates.clone() for name in NAMES}, {name: torch.zeros(4, 3, 5) for name in NAMES},
            torch.linspace(-5, 7, 6, dtype=torch.float64), torch.zeros(4, 2, 5),
        )  # fmt: skip


def judge(told, concepts, prompt, noise=None, samples=128, seconds=None):
    answers, results = World(prompt, told, noise), []
    search = Search(prompt, concepts, Budget(samples, seconds, 0.1), samples // 32)
    while search.questions:
        began = dpid.words.monotonic()
        search.add(answers.answers(search.questions, search.turn), began)
        results.append(search.result)
    return answers, results


COW_AND_DOG = {
    "cow": [4.0, 0, 0], "dog": [0, 4.0, 0], "a and a dog": [0, 4.0, 0], "a cow and a": [4.0, 0, 0],
    "a cow and a dog": [4.0, 4.0, 0],
}  # fmt: skip


MISLED = {
    "cow": [4.0, 0, 0], "pizza": [0, -9.0, 0], "a and a pizza": [0, -9.0, 0], "a cow and a": [4.0, 0, 0],
    "a cow and a pizza": [-5.0, -9.0, 0], "a and a": [0, 0, 0],
}  # fmt: skip


def test_words_share_the_conditions_that_they_have_in_common():
    answers, results = judge(COW_AND_DOG, ("cow", "dog"), "a cow and a dog")
    assert results[-1].verdicts == {"cow": "used", "dog": "used"}
    assert len(results) == 1, "it ends when every word is settled"
    assert set(answers.evaluations) == {"", *COW_AND_DOG}
    assert max(answers.evaluations.values()) == 1


def test_more_evaluations_go_to_words_that_are_not_settled():
    answers, results = judge(COW_AND_DOG, ("cow", "dog"), "a cow and a dog", {"a cow and a": 30.0})
    assert answers.asked == [["cow", "dog"], ["dog"], ["dog"], ["dog"]]
    assert answers.turns == [0, 1, 2, 3], "every round has noise of its own"
    assert answers.evaluations["cow"] == 1
    assert answers.evaluations["a cow and a"] == answers.evaluations["a cow and a dog"] == 4
    last = results[-1]
    assert [word.pid.metadata.samples for word in last.words.values()] == [32, 128]
    assert last.unet_evaluations == 32 * sum(answers.evaluations.values())
    assert not last.settled
    assert last.words["cow"].settled


def test_time_ends_a_run(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("dpid.words.monotonic", lambda: next(clock))
    answers, _ = judge(COW_AND_DOG, ("cow", "dog"), "a cow and a dog", {"a cow and a": 30.0}, seconds=25)
    # The clock goes on by 10 at every look: the first round takes 10 and ends at 20, another would end at 30.
    assert len(answers.asked) == 1


def test_judging_counts_in_the_time_of_a_round(monkeypatch):
    """Evaluating takes 4 s and judging 2 s of each round of 10 s; of a second one there are only 4 s left."""
    now = [0.0]
    monkeypatch.setattr("dpid.words.monotonic", lambda: now[0])
    judging = Search._judge

    def slow(search, results):
        now[0] += 2
        judging(search, results)

    monkeypatch.setattr(Search, "_judge", slow)
    search = Search("a cow and a dog", ("cow", "dog"), Budget(128, 10.0, 0.1), 4)
    answers = World("a cow and a dog", COW_AND_DOG, {"a cow and a": 30.0, "a and a dog": 30.0})
    now[0] += 4
    search.add(answers.answers(search.questions, 0), 0.0)
    assert not search.result.settled
    assert not search.questions


SOFA = {
    "sofa": [4.0, 0, 0], "couch": [4.0, 0, 0], "dog": [0, 4.0, 0], "sofa couch": [4.0, 0, 0],
    "a couch and a dog": [4.0, 4.0, 0], "a sofa and a dog": [4.0, 4.0, 0], "a sofa couch and a": [4.0, 0, 0],
    "a sofa couch and a dog": [4.0, 4.0, 0], "sofa dog": [4.0, 4.0, 0], "couch dog": [4.0, 4.0, 0],
}  # fmt: skip


def test_a_redundant_word_is_named_with_the_one_that_says_the_same():
    answers, results = judge(SOFA, ("sofa", "couch", "dog"), "a sofa couch and a dog")
    assert results[-1].verdicts == {"sofa": "redundant with couch", "couch": "redundant with sofa", "dog": "used"}
    assert answers.asked[1] == ["sofa", "sofa", "couch", "couch"], "pairs of the redundant words alone"
    assert len(results) == 2
    assert results[0].verdicts["sofa"] == "redundant with the rest", "what is known before the pairs is not lost"


def test_a_partner_without_a_choice_is_named_after_the_time(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("dpid.words.monotonic", lambda: next(clock))
    told = {"sofa": [4.0, 0, 0], "couch": [4.0, 0, 0], "a couch": [4.0, 0, 0], "a sofa": [4.0, 0, 0]}
    answers, results = judge(told | {"a sofa couch": [4.0, 0, 0]}, ("sofa", "couch"), "a sofa couch", seconds=1)
    assert results[-1].verdicts == {"sofa": "redundant with couch", "couch": "redundant with sofa"}
    answers, results = judge(SOFA, ("sofa", "couch", "dog"), "a sofa couch and a dog", seconds=1)
    assert len(answers.asked) == len(results) == 1, "there is no time for pairs"
    assert results[0].verdicts["sofa"] == "redundant with the rest"


def test_a_word_that_works_only_with_another_is_named_with_it():
    told = SOFA | {"sofa": [0, 0, 0], "sofa couch": [6.0, 0, 0], "a sofa couch and a": [6.0, 0, 0]} | {
        "a sofa couch and a dog": [6.0, 4.0, 0], "a sofa and a dog": [0, 4.0, 0], "sofa dog": [0, 4.0, 0],
    }  # fmt: skip
    _, results = judge(told, ("sofa", "couch", "dog"), "a sofa couch and a dog")
    assert results[-1].verdicts["sofa"] == "works only with couch"


def test_a_pair_of_words_needs_no_choice():
    told = {"sofa": [4.0, 0, 0], "couch": [4.0, 0, 0], "a couch": [4.0, 0, 0], "a sofa": [4.0, 0, 0],
            "a sofa couch": [4.0, 0, 0]}  # fmt: skip
    answers, results = judge(told, ("sofa", "couch"), "a sofa couch")
    assert results[-1].verdicts == {"sofa": "redundant with couch", "couch": "redundant with sofa"}
    assert len(answers.asked) == 1


def test_what_misleads_is_left_out_of_what_the_others_are_given():
    answers, results = judge(MISLED, ("cow", "pizza"), "a cow and a pizza")
    assert results[-1].verdicts == {"cow": "used", "pizza": "misleading"}
    assert results[-1].words["cow"].pid.metadata.conditions[REST] == "a and a"
    assert results[-1].words["pizza"].pid.metadata.conditions[REST] == "a cow and a"
    assert answers.asked == [["cow", "pizza"], ["cow"]]
    assert results[-1].words["cow"].pid.metadata.samples == 32, "what was known beside the lie is forgotten"
    assert results[-1].settled
    assert not results[0].settled, "the cow is yet to be asked beside the truth"


def test_a_word_that_cannot_be_asked_again_beside_the_truth_is_not_settled(tmp_path):
    _, (result,) = judge(MISLED, ("cow", "pizza"), "a cow and a pizza", samples=32)
    assert result.verdicts["pizza"] == "misleading"
    assert not result.words["cow"].settled
    assert result.remarks() == [
        "'pizza' speaks against this picture",
        "'cow': not settled; give more samples or more time",
    ]
    result.save(tmp_path / "words.safetensors")
    assert dpid.WordsResult.load(tmp_path / "words.safetensors") == result


def test_rounds_have_seeds_of_their_own():
    seeds = [seed_of(seed, turn) for seed in range(20) for turn in range(20)]
    assert len(set(seeds)) == len(seeds)
    assert seed_of(7, 0) == 7


def test_results_have_the_seed_that_was_asked_for():
    """Also of a word that is asked anew, by a round of which the seed is less."""
    seed, world = 2**63 - 1, World("a cow and a pizza", MISLED)
    search = Search(world.prompt, ("cow", "pizza"), Budget(128), 4)
    one = Asked(None, torch.zeros(1, 4, 1, 3), (), world.prompt, ())
    rounds = _Rounds(
        lambda ones, options, _: [world.answers(ones[0].questions, options.seed)], Options(seed=seed), lambda *_: None
    )
    while search.questions:
        rounds([(search, one)])
    assert world.asked == [["cow", "pizza"], ["cow"]]
    assert world.turns[1] < seed
    assert {word.pid.metadata.seed for word in search.result.words.values()} == {search.result.metadata.seed} == {seed}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompt": None}, ValueError, "prompt: is needed"),
        ({"prompt": "a"}, ValueError, "prompt: found 'a', which has no content word"),
        ({"prompt": "a cow", "concepts": ()}, ValueError, "concepts: found 0, expected 1 to 64"),
        ({"prompt": "a cow", "concepts": ("dog",)}, ValueError, "concepts: 'dog' is not in the prompt"),
        ({"prompt": "a cow", "concepts": ("cow", "cow")}, ValueError, "concepts: found 2"),
        ({"prompt": "a cow", "concepts": ("cow", "Cow")}, ValueError, "concepts: two of them are the same place"),
        ({"prompt": "a cow and the rest", "concepts": ("cow", "the rest")}, ValueError, "concepts: 'the rest' is the"),
        ({"prompt": "a cow", "concepts": "cow"}, TypeError, "concepts: found the string"),
        ({"prompt": "a cow", "samples": 0}, ValueError, "samples: found 0"),
        ({"prompt": "a cow", "seconds": 0}, ValueError, "seconds: found 0, expected a positive"),
        ({"prompt": "a cow", "seconds": "x"}, TypeError, "seconds: found 'x'"),
        ({"prompt": "a cow", "margin": 1.5}, ValueError, "margin: found 1.5"),
        ({"prompt": "a cow", "estimator": "orthogonal"}, ValueError, "estimator: found 'orthogonal', by which no word"),
        ({"prompt": "a cow", "level": "image"}, TypeError, "level: is not taken where words are judged"),
        (
            {"prompt": "a cow", "tolerance": 0.1},
            TypeError,
            "tolerance: .*; allowed are samples, replicates, rule, an",
        ),
        ({"prompt": "a cow", "smoth": 1}, TypeError, "smoth: is no option; did you mean smooth"),
        ({"prompt": "a cow", "second": 3}, TypeError, r"second: is no option; did you mean seconds\?$"),
        ({"prompt": "a cow", "margn": 0.2}, TypeError, r"margn: is no option; did you mean margin\?$"),
        ({"prompt": "a cow", "colour": 1}, TypeError, "colour: is no option; allowed are samples, replicates, rule, a"),
        ({"prompt": "a cow", "guidance_scale": 1}, TypeError, "guidance_scale: belongs to the pipeline"),
    ],
)
def test_bad_input_is_named(emoji, arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        emoji.words(latents=torch.zeros(4, 16, 16), **arguments)


def test_scenes_whose_truth_is_known(emoji):
    """Synonyms beside a true word, and a homonym; ``benchmarks/bench_words.py`` judges 200 scenes."""
    for number in (2, 3):
        rows = bench_words.judged(emoji, number, "words of the tests")
        assert all(bench_words.right(row, rows) for row in rows), rows


def test_streams_end_with_what_words_returns(emoji):
    picture = world.picture(("cow", "dog"), "stream")
    *_, last = emoji.stream_words(picture, "a cow and a dog", samples=16, seed=3)
    assert last == emoji.words(picture, "a cow and a dog", samples=16, seed=3)
    assert isinstance(last, dpid.WordsResult)
    assert list(last.words) == ["cow", "dog"]
    alone = emoji.explain(
        picture, conditions={(): "", ("cow",): "cow", (REST,): "a and a dog", ("cow", REST): "a cow and a dog"},
        samples=16, seed=3, level="pixel",
    )  # fmt: skip
    assert last.words["cow"].alone == alone.information[("cow",)]
    assert last.words["cow"].unique == alone.unique["cow"]
    assert last.metadata.conditions["without cow"] == "a and a dog"


def test_progress_is_that_of_all_rounds(emoji):
    told = []
    result = emoji.words(
        world.picture(("cow", "dog"), "progress"), "a cow and a dog", samples=96, seed=3, margin=1e-3,
        progress=lambda done, planned: told.append((done, planned)),
    )  # fmt: skip
    done = [a for a, _ in told]
    assert done == sorted(done)
    assert done[-1] == result.unet_evaluations
    assert max(planned for _, planned in told) <= 6 * 96, "six conditions"
    assert all(a <= planned for a, planned in told)


def test_progress_is_that_of_all_searches():
    """Of which one ends by a round of pairs after one of four, when its words are settled, and the other goes on."""
    told = []
    worlds = World("a sofa couch and a dog", SOFA), World("a cow and a dog", COW_AND_DOG, {"a cow and a": 30.0})
    concepts = ("sofa", "couch", "dog"), ("cow", "dog")
    side_by_side = [
        (Search(world.prompt, words, Budget(128), 4), Asked(None, torch.zeros(1, 4, 1, 3), (), world.prompt, ()))
        for world, words in zip(worlds, concepts, strict=True)
    ]

    def run(pictures, chosen, progress):
        evaluations = 32 * sum(len(one.texts) for one in pictures)
        progress(evaluations, evaluations)
        by_prompt = {world.prompt: world for world in worlds}
        return [by_prompt[one.prompt].answers(one.questions, chosen.seed) for one in pictures]

    rounds = _Rounds(run, Options(), lambda *numbers: told.append(numbers))
    while asked := [pair for pair in side_by_side if pair[0].questions]:
        rounds(asked)
    # 8 and 6 conditions; then one round of pairs with 8, and of "dog" alone 3 with 4.
    assert told[:2] == [(32 * 8, 32 * 4 * (8 + 6)), (32 * (8 + 6), 32 * (8 + 8 + 4 * 6))]
    assert told[2:] == [(32 * (14 + 8), 32 * (14 + 8 + 3 * 4))] + [(32 * (22 + 4 * i), 32 * 34) for i in (1, 2, 3)]
    assert [world.turns for world in worlds] == [[seed_of(0, 0), seed_of(0, 1)], [seed_of(0, i) for i in range(4)]]


def test_samples_are_the_most_evaluations_of_a_condition(emoji):
    """Of a number that is no multiple of a round, too; a word of which nothing is settled takes all of them."""
    result = emoji.words(latents=torch.randn(4, 16, 16), prompt="a cow and a dog", samples=40)
    assert {word.pid.metadata.samples for word in result.words.values()} == {32}
