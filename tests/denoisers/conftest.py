"""A fixture for tests of the check at load."""

import logging

import pytest

from dpid.denoisers.checks import pipeline


@pytest.fixture
def checked_again(monkeypatch, caplog):
    """Compares every pipeline with its family at load, whatever was compared before; what dpid says of it."""
    monkeypatch.setattr(pipeline, "_passed", set())
    caplog.set_level(logging.INFO, "dpid")
    return caplog
