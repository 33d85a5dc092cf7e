"""Modes of torch, threads and processes in a user's program change no numbers, and are not changed."""

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller

import pytest
import torch

import dpid
from dpid.denoisers import GaussianDenoiser

CONCEPTS = ("cow", "giraffe")
PROMPT = "a cow and a giraffe"
EVEN = "shifted-grid"  # which the first explanation by the default has, too
IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))


def ask(explainer, **options):
    return explainer.explain(IMAGE, PROMPT, CONCEPTS, **{"samples": 8, **options})


def equal(first, second):
    return all(torch.equal(f, second.replicates[name]) for name, f in first.replicates.items())


class DefaultDtype:
    def __init__(self, dtype):
        self.dtype, self.before = dtype, torch.get_default_dtype()

    def __enter__(self):
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *_):
        torch.set_default_dtype(self.before)


class Deterministic:
    def __enter__(self):
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_):
        torch.use_deterministic_algorithms(False)


MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "another default device": lambda: torch.device("meta"),
    "float64 by default": lambda: DefaultDtype(torch.float64),
    "bfloat16 by default": lambda: DefaultDtype(torch.bfloat16),
    "deterministic algorithms": Deterministic,
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_torch_change_no_number(tiny, mode):
    pipe = tiny()
    expected = ask(dpid.Explainer(pipe, precision="float32"))
    likelihood = dpid.Explainer(pipe, precision="float32").log_likelihood(IMAGE, "a cow", samples=8)
    numbers, maps, profile = expected.to_dict(), expected.maps.unique["cow"], expected.profile.synergy
    with MODES[mode]():
        if mode == "bfloat16 by default":  # in which old releases of transformers do not run
            try:
                pipe.encode_prompt("a cow", torch.device("cpu"), 1, False)
            except RuntimeError as error:
                pytest.skip(f"the pipeline itself: {error}")
        explainer = dpid.Explainer(pipe, precision="float32")
        got = ask(explainer)
        stream = explainer.stream(IMAGE, PROMPT, CONCEPTS, samples=8, max_samples=16, rule=EVEN)
        first = next(stream)
        assert explainer.log_likelihood(IMAGE, "a cow", samples=8) == likelihood
        told = got.to_dict()
        assert torch.equal(got.maps.unique["cow"], maps)
        assert torch.equal(got.profile.synergy, profile)
    second = next(stream)  # begun inside, ended outside
    assert equal(got, expected)
    assert equal(first, expected)
    assert second.metadata.samples == 16
    for facts in (numbers, told):
        facts.pop("peak_memory")
    assert told == numbers


def test_the_embedded_model_in_every_mode(emoji, two_things):
    image, prompt, concepts = two_things
    want = emoji.explain(image, prompt, concepts, samples=8)
    for mode in MODES.values():
        with mode():
            explainer = dpid.Explainer.from_pretrained("emoji", device="cpu")
            assert equal(explainer.explain(image, prompt, concepts, samples=8), want)


def test_settings_of_torch_come_back(tiny):
    explainer = dpid.Explainer(tiny(), precision="float32")
    with torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        ask(explainer)
        stream = explainer.stream(IMAGE, PROMPT, CONCEPTS, samples=8)
        next(stream)  # an open stream holds nothing
        assert torch.get_default_device().type == "meta"
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()


def in_threads(function, count=8, repeats=3):
    """What ``function`` of 0 … count - 1 gives in eight threads, each asked for several times."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(function, list(range(count)) * repeats))


@pytest.mark.parametrize("training", [False, True])
def test_one_explainer_in_many_threads(tiny, training):
    """With dropout, that a UNet in train() mode would use were it not for evaluation mode, which all threads share."""
    pipe = tiny(dropout=0.5)
    pipe.unet.train(training)
    explainer = dpid.Explainer(pipe, precision="float32")
    want = [ask(explainer, seed=s, rule=EVEN) for s in range(4)]
    assert all(equal(r, want[i % 4]) for i, r in enumerate(in_threads(lambda s: ask(explainer, seed=s, rule=EVEN), 4)))
    assert pipe.unet.training == training
    numbers = [explainer.log_likelihood(IMAGE, PROMPT, samples=8, seed=s).nats for s in range(8)]
    got = in_threads(lambda s: explainer.log_likelihood(IMAGE, PROMPT, samples=8, seed=s).nats)
    assert got == numbers * 3


def test_two_explainers_of_one_pipeline_in_threads(tiny):
    pipe = tiny(dropout=0.5)
    pipe.unet.train()
    explainers = [dpid.Explainer(pipe, precision="float32") for _ in range(4)]
    want = ask(explainers[0])
    assert all(equal(r, want) for r in in_threads(lambda i: ask(explainers[i], rule=EVEN), 4))


def test_streams_side_by_side(tiny):
    explainer = dpid.Explainer(tiny(), precision="float32")

    def last(seed):
        *_, result = explainer.stream(IMAGE, PROMPT, CONCEPTS, samples=8, max_samples=24, seed=seed, rule=EVEN)
        return result

    want = [last(seed) for seed in range(4)]
    assert all(equal(r, want[i % 4]) for i, r in enumerate(in_threads(last, 4)))


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("through", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_explainers_are_copied_and_sent(tiny, precision, through):
    explainer = dpid.Explainer(tiny(), precision=precision)
    explainer.density = torch.ones(1000)
    want = ask(explainer)
    got = ask(through(explainer))
    assert equal(got, want)
    assert got.metadata.precision == want.metadata.precision


def test_the_embedded_model_is_sent_without_its_weights(emoji, two_things):
    sent = pickle.dumps(emoji)
    assert len(sent) < 100_000  # its density and the name of its folder
    image, prompt, concepts = two_things
    again = pickle.loads(sent).explain(image, prompt, concepts, samples=8)
    assert equal(again, emoji.explain(image, prompt, concepts, samples=8))


def test_a_spawned_process_gives_the_same_number():
    means = {"0": 0.0, "a": 0.5, "b": 0.5, "ab": 1.0}
    explainer = dpid.Explainer(
        GaussianDenoiser({k: (torch.full((1, 2, 2), m), torch.ones(1, 2, 2)) for k, m in means.items()})
    )
    conditions = {(): "0", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
    ask = methodcaller("explain", latents=torch.ones(1, 2, 2), conditions=conditions, samples=8)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply_async(ask, (explainer,)).get(120) == ask(explainer)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_goes_on_after_an_explanation():
    """torch's threads do not survive a fork: without care the child waits for them for ever."""
    code = """
import os, torch, dpid
torch.set_num_threads(2)
e = dpid.Explainer.from_pretrained("emoji", device="cpu", precision="float32")
x = torch.linspace(-1, 1, 4 * 16 * 16).view(4, 16, 16)
ask = lambda: e.explain(latents=x, prompt="a cow and a pizza", concepts=("cow", "pizza"), samples=8).synergy.value
want, (read, write) = ask(), os.pipe()
if os.fork() == 0:
    os.write(write, str(ask()).encode())
    os._exit(0)
os.wait()
got = float(os.read(read, 100))
assert abs(got - want) < 1e-3 * abs(want), (got, want)  # float32 in another order
"""
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "2"}
    )
