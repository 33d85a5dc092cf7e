"""Settings of torch while a network works: what the caller has set is put aside, and put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from dpid.device import default_device, without_autocast

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_IMPORTED_IN = os.getpid()


def check_precision(precision: str, *allowed: str) -> None:
    """``ValueError`` for a precision that is not ``allowed``; by default "auto" is, and every type."""
    allowed = allowed or ("auto", *PRECISIONS)
    if precision not in allowed:
        raise ValueError(f"precision: found {precision!r}, allowed are {', '.join(allowed)}")


def usable_device(device: str | None) -> torch.device:
    """The device called ``device``, or the fastest there is; ``ValueError`` for one that cannot be used."""
    try:
        chosen = default_device() if device is None else torch.device(device)
        torch.zeros(1).to(chosen).cpu()  # of "meta" there is nothing to copy
    except Exception as error:  # torch has many for this
        reason = str(error).strip().partition("\n")[0][:160]
        raise ValueError(f"device: {device!r} cannot be used: {reason}") from error
    return chosen


@contextmanager
def undisturbed() -> Iterator[None]:
    """A stretch of code that computes the same whatever modes its caller has put torch into.

    Autocast, inference mode, gradients and a default device are off in it, for this thread alone. In a process that was
    forked from one that had imported dpid, torch's threads are gone and the first to wait for them would wait for ever:
    one thread works there.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.no_grad())
        modes.enter_context(without_autocast())
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
            torch.set_num_threads(1)
        yield


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every training flag is put back."""
    flags = [(m, m.training) for module in modules for m in module.modules() if m.training]
    for module, _ in flags:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
