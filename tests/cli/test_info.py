"""What is installed and known."""


def test_info(command):
    code, out, errors = command("info")
    assert (code, errors) == (0, "")
    assert "giraffe" in out
