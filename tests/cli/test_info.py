"""What is installed and known."""


def test_info(dpid, tmp_path):
    done = dpid("info", cwd=tmp_path)
    assert done.returncode == 0
    assert "giraffe" in done.stdout
