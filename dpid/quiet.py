"""Silences messages of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock

# Of libraries that others try to import: torchao warns of kernels that it cannot load, torch of what torchao registers.
_LOGGERS = ("torchao", "torch.utils._pytree")

_lock, _users, _silence = Lock(), 0, ExitStack()


@contextmanager
def quiet() -> Iterator[None]:
    """A context in which other libraries, while they load, neither warn nor show progress; errors are still shown.

    Of threads that are in it at once the first begins it and the last ends it.
    """
    global _users, _silence
    with _lock:
        if not _users:
            with ExitStack() as begun:  # left again if the libraries cannot be imported
                begun.enter_context(_quiet_imports())
                begun.enter_context(_quiet_pipelines())
                _silence = begun.pop_all()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                _silence.close()


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """The same of libraries that others try to import."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _quiet_pipelines() -> Iterator[None]:
    """The same of diffusers, transformers and the hub's library, which have switches of their own."""
    from diffusers.utils import logging as diffusers_log
    from huggingface_hub.utils import logging as hub_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    of_hub = hub_log.get_verbosity()
    hub_log.set_verbosity(logging.ERROR)  # it tells of every try to reach the hub, and dpid of the last
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        hub_log.set_verbosity(of_hub)
        for log, (verbosity, bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()
