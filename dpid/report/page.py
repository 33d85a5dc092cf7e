"""What all pages are made with: templates, numbers with errors, and figures inside the page."""

from __future__ import annotations

import base64
import io
import json
import math
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure


def render(template: str, **variables: Any) -> str:
    """The HTML of a ``template``, a path within the package; every text in ``variables`` is escaped."""
    import jinja2

    def source(name: str) -> str:
        return files("dpid").joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(source), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template(template).render(**variables)


def png(data: bytes) -> str:
    """The address of a PNG picture inside a page."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def drawn(shown: Figure | Image.Image) -> str:
    """The address of a figure or a picture inside a page."""
    file = io.BytesIO()
    save = shown.save if isinstance(shown, Image.Image) else shown.savefig
    save(file, format="png")
    return png(file.getvalue())


def number(value: Any, stderr: float | None = None) -> str:
    """A value as a page shows it: "0.93 ± 0.02", rounded to the first digit of the error, or the second after a 1.

    Without an error four digits are shown.
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or (isinstance(value, int) and stderr is None):
        return str(value)
    if not isinstance(value, (int, float)):
        return json.dumps(value, ensure_ascii=False)
    if not stderr:
        return f"{value:.4g}" + ("" if stderr is None else " ± 0")
    exponent = math.floor(math.log10(stderr))
    digits = max(0, int(stderr / 10**exponent < 2) - exponent)
    return f"{value:.{digits}f} ± {stderr:.{digits}f}"
