"""Runs that are stopped or awaited, and several side by side."""

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat

import pytest
import torch

from dpid import Stopped


def test_a_stopped_run_leaves_nothing_behind(emoji, two_things):
    path, prompt, concepts = two_things
    expected = emoji.explain(path, prompt, concepts, samples=32, rule="shifted-grid")
    learnt, asked = emoji.learnt, {"samples": 32, "rule": "shifted-grid", "max_batch_size": 16}

    def failing(done, planned):
        raise KeyError("a fault of the caller")

    def interrupted():
        """The number of tensors after runs that were stopped in their midst, or failed in what the caller gave."""
        for options, error in (({"stop": chain([False] * 2, repeat(True)).__next__}, Stopped),
                               ({"progress": failing}, KeyError)):  # fmt: skip
            with pytest.raises(error):
                emoji.explain(path, prompt, concepts, **asked, **options)
            with pytest.raises(error):
                list(emoji.explain_many([path, path], prompt, concepts, **asked, **options))
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    assert interrupted() >= interrupted()  # the first may have filled caches
    assert emoji.learnt is learnt
    with ThreadPoolExecutor(1) as other:  # would wait for ever if the lock were held
        again = other.submit(emoji.explain, path, prompt, concepts, samples=32, rule="shifted-grid").result(120)
    assert again.redundancy == expected.redundancy


def test_a_stop_that_is_set_ends_a_stream(emoji, two_things):
    path, prompt, concepts = two_things
    stop = threading.Event()
    results = emoji.stream(path, prompt, concepts, samples=8, stop=stop)
    next(results)
    stop.set()
    with pytest.raises(Stopped):
        next(results)


def test_different_calls_side_by_side_do_not_disturb_each_other(emoji, two_things):
    path, prompt, concepts = two_things
    how = {"samples": 8, "rule": "uniform", "seed": 3}
    calls = [
        lambda: emoji.explain(path, prompt, concepts, **how),
        lambda: list(emoji.explain_many([path, path], prompt, concepts, **how)),
        lambda: list(emoji.stream(path, prompt, concepts, max_samples=16, **how)),
        lambda: emoji.words(path, prompt, **how | {"samples": 32}),
        lambda: emoji.rank([path, path], prompt, **how),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(len(calls)) as threads:
        found = list(threads.map(lambda call: call(), calls))
    assert found == expected


def test_await_leaves_the_loop_free_and_cancelling_stops_the_run(emoji, two_things):
    path, prompt, concepts = two_things
    looked = []

    async def run():
        result = await emoji.aexplain(path, prompt, concepts, samples=8, rule="uniform")
        began = threading.Event()

        def progress(done, planned):
            looked.append(done)
            began.set()

        task = asyncio.create_task(
            emoji.aexplain(path, prompt, concepts, samples=4096, max_batch_size=4, rule="uniform", progress=progress)
        )
        while not began.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return result

    result = asyncio.run(run())  # which waits for the thread
    assert len(looked) < 4096
    assert result.redundancy == emoji.explain(path, prompt, concepts, samples=8, rule="uniform").redundancy
