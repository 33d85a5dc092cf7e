"""The service of examples/, asked by FastAPI's own client."""

import importlib.util
from pathlib import Path

import pytest

import dpid

pytest.importorskip("fastapi")
pytest.importorskip("multipart")

pytestmark = pytest.mark.filterwarnings("default")  # what other libraries deprecate is not for users to mend
SOURCE = Path(__file__).parents[2] / "examples" / "service.py"


def loaded():
    spec = importlib.util.spec_from_file_location("service", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def service():
    return loaded()


@pytest.fixture(scope="module")
def post(service):
    from fastapi.testclient import TestClient

    client = TestClient(service.app)
    return lambda image, **form: client.post("/explain", files={"image": image}, data=form)


def test_answers_what_the_explainer_finds(service, post, two_things):
    path, prompt, concepts = two_things
    answer = post(path.read_bytes(), prompt=prompt, concepts=concepts, samples=16)
    assert answer.status_code == 200, answer.text
    expected = service.explainer.explain(path, prompt, concepts, samples=16)
    assert answer.json()["synergy"] == expected.synergy.to_dict()
    assert answer.json()["concepts"] == list(concepts)


def test_answers_do_not_depend_on_earlier_requests(two_things, monkeypatch):
    """Also of a model without a density, which learns where to sample unless a rule is named."""
    from fastapi.testclient import TestClient

    explainer = dpid.Explainer.from_pretrained("emoji", device="cpu")
    explainer.density = None
    monkeypatch.setattr(dpid.Explainer, "from_pretrained", lambda name: explainer)
    client, (path, prompt, concepts) = TestClient(loaded().app), two_things
    form = {"prompt": prompt, "concepts": concepts, "samples": 8}
    first, second = (client.post("/explain", files={"image": path.read_bytes()}, data=form).json() for _ in range(2))
    assert first["information"] == second["information"]


@pytest.mark.parametrize(
    ("image", "form", "said"),
    [
        (b"no picture", {}, "cannot identify image file"),
        (None, {"concepts": ["cow", "tree"]}, "concepts: 'cow' is not in the prompt"),
        (None, {"concepts": ["one"]}, "concepts: found 1"),
        (None, {"samples": 0}, "greater than or equal to 1"),
        (None, {"samples": 4097}, "samples: found 4097 for 2 concepts"),
        (None, {"samples": 65, "concepts": ["a"] * 8}, "samples: found 65 for 8 concepts"),
    ],
)
def test_says_what_is_wrong(post, two_things, image, form, said):
    path, prompt, concepts = two_things
    answer = post(image or path.read_bytes(), **{"prompt": prompt, "concepts": concepts} | form)
    assert answer.status_code == 422
    assert said in answer.text


@pytest.mark.parametrize("error", [FloatingPointError("eps_hat: has NaN"), RuntimeError("not enough memory")])
def test_says_why_it_failed(service, post, two_things, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(service.explainer, "explain", fail)
    path, prompt, concepts = two_things
    answer = post(path.read_bytes(), prompt=prompt, concepts=concepts)
    assert (answer.status_code, answer.json()) == (503, {"detail": str(error)})


def test_no_request_takes_longer_than_it_may(service, post, two_things, monkeypatch):
    monkeypatch.setattr(service, "SECONDS", 0)
    path, prompt, concepts = two_things
    answer = post(path.read_bytes(), prompt=prompt, concepts=concepts, samples=4096)
    assert (answer.status_code, answer.json()["detail"][:21]) == (503, "not done in 0 seconds")
