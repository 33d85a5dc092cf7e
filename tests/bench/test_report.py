"""Reports of ``dpid bench``: as they were written, compared with each other, and what is no report."""

import pytest

from dpid.bench import Report, Row

ABOUT = {"model": "emoji", "torch": "2.13.0", "date": "today"}


def test_a_report_is_read_as_it_was_written(tmp_path):
    report = Report(ABOUT, [Row("a", 2.0, "s", 3, "a note"), Row("b", None)], whole=True)
    report.write(tmp_path / "bench.json")
    assert Report.read(tmp_path / "bench.json") == report


def test_ratios_are_of_numbers_that_both_have():
    before = Report(ABOUT, [Row("a", 4.0), Row("b", None), Row("zero", 0.0), Row("gone", 1.0)])
    now = Report(ABOUT | {"torch": "2.14.0", "date": "tomorrow"}, [Row("a", 2.0), Row("b", 3.0), Row("zero", 1.0)])
    assert now.ratios(before) == {"a": 0.5}
    assert now.changed(before) == ["torch: 2.13.0, now 2.14.0"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"rows": []}', '{"about": {}, "whole": true, "rows": [{"metric": 1, "value": 2}]}', "\xff"]
)
def test_what_is_no_report(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"^compare: .*other\.json (is no file that dpid bench wrote|cannot be read)"):
        Report.read(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"^compare: .*none\.json cannot be read \(No such file or directory\)"):
        Report.read(tmp_path / "none.json")
