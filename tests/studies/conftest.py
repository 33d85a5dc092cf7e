"""Fixtures of the studies' tests: a workbench of the embedded model, few cases, pictures of a user."""

from functools import partial

import pytest

from dpid.denoisers.loading import load_pipeline
from dpid.studies import Workbench, world
from dpid.studies.data import Scene
from dpid.zoo import generate
from dpid.zoo.emoji import scenes


@pytest.fixture
def fewer(monkeypatch):
    """One homonym and one pair of objects in place of all, pictures in fewer steps, intervals from fewer resamples."""
    monkeypatch.setattr(scenes, "HOMONYMS", {"mouse": scenes.HOMONYMS["mouse"]})
    monkeypatch.setattr("dpid.studies.features._PAIRS", (("zebra", "horse"),))
    monkeypatch.setattr("dpid.zoo.generate", partial(generate, steps=10))
    monkeypatch.setattr("dpid.studies.study._RESAMPLES", 200)


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("emoji", "cpu")


@pytest.fixture
def bench(emoji, pipe):
    def make(**options):
        return Workbench("emoji", explainer=emoji, pipe=pipe, **{"samples": 8, "pictures": 1, **options})

    return make


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two pictures of a user, with masks."""
    folder = tmp_path_factory.mktemp("own")
    made = []
    for i, pair in enumerate((("cow", "giraffe"), ("dog", "pizza"))):
        world.picture(pair, str(i)).save(folder / f"{i}.png")
        masks = dict(zip(pair, world.draw(pair, str(i))[1], strict=True))
        made.append(Scene(folder / f"{i}.png", "a {} and a {}".format(*pair), pair, lambda masks=masks: masks))
    return made
