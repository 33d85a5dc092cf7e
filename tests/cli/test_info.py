"""What is installed and known."""

from importlib.metadata import version


def test_info(command):
    code, out, errors = command("info")
    assert (code, errors) == (0, "")
    assert "giraffe" in out


def test_version(command):
    assert command("--version") == (0, f"dpid {version('dpid')}\n", "")
