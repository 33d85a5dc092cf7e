"""What was measured as rows, and a file of them, which a later run can be compared with."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dpid.files import write_json


@dataclass(frozen=True)
class Row:
    """A number that was measured.

    Attributes
    ----------
    metric, unit : what it is
    value : None where it could not be measured; ``note`` says why
    n : how many runs it is of
    note : what else to know
    """

    metric: str
    value: float | None
    unit: str = ""
    n: int = 1
    note: str = ""


@dataclass
class Report:
    """The rows of one run.

    Attributes
    ----------
    about : {"model": …, "device": …, "precision": …, versions, …}
    rows : in the order in which they were measured
    whole : whether everything was measured that was to be
    """

    about: dict[str, str]
    rows: list[Row] = field(default_factory=list)
    whole: bool = False

    def write(self, path: Path) -> None:
        """Write the report to ``path`` as JSON."""
        content = {"about": self.about, "whole": self.whole, "rows": [asdict(row) for row in self.rows]}
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> Report:
        """The report in ``path``; ``ValueError`` if it is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(dict(content["about"]), [_row(row) for row in content["rows"]], bool(content["whole"]))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"compare: {path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"compare: {path} is no file that dpid bench wrote") from error

    def ratios(self, before: Report) -> dict[str, float]:
        """{metric: this report's number over that of ``before``}, of those that both have and that are not zero."""
        old = {row.metric: row.value for row in before.rows}
        return {
            row.metric: row.value / value
            for row in self.rows
            if row.value is not None and (value := old.get(row.metric)) and math.isfinite(value)
        }

    def changed(self, before: Report) -> list[str]:
        """What of ``about`` is another than in ``before``: "torch: 2.12.0, now 2.13.0"."""
        names = dict.fromkeys((*before.about, *self.about))
        found = ((name, before.about.get(name, "?"), self.about.get(name, "?")) for name in names if name != "date")
        return [f"{name}: {old}, now {new}" for name, old, new in found if old != new]


def _row(content: Mapping[str, Any]) -> Row:
    row = Row(**content)
    if not isinstance(row.metric, str) or not isinstance(row.value, (int, float, type(None))):
        raise TypeError
    return row
