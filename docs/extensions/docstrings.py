"""Docstrings of dpid as mkdocstrings wants them.

Ours say ``name : what it is``, with the type in the signature, and may describe what is returned in prose. In numpy's
style a type follows the colon, or stands in place of the name, and what it is on the next line. Roles such as
``:func:`name``` and quoted placeholders such as "mlm:<model>" become code.
"""

import inspect
import re
from textwrap import indent
from typing import Any

import griffe

from dpid.options import Options

_SECTION = re.compile(r"^(\w+)\n-+\n", re.MULTILINE)
_ITEM = re.compile(r"^([\w*, ]+?) : (.+)$", re.MULTILINE)
_ROLE = re.compile(r":(?:func|class|meth|mod|attr):`[~!]?([^`]+)`")
_PLACEHOLDER = re.compile(r'"[^"`\n]*<\w+>[^"`\n]*"')


def rewritten(text: str, returned: str) -> str:
    """``text`` with what an item is below its name, and prose about what is returned below its type ``returned``."""
    text = _PLACEHOLDER.sub(r"`\g<0>`", _ROLE.sub(r"`\1`", text))
    result, *sections = _SECTION.split(text)
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        if name == "Returns" and not _ITEM.search(body):
            body = f"{returned}\n{indent(body, '    ')}"
        elif name in ("Parameters", "Attributes", "Returns"):
            body = _ITEM.sub(r"\1\n    \2", body)
        result += f"{name}\n{'-' * len(name)}\n{body}"
    return result


class Docstrings(griffe.Extension):
    """Rewrites every docstring before it is parsed, and shows ``name: type = option(default, …)`` as its default."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        if isinstance(attr.value, griffe.ExprCall) and str(attr.value.function) == "option":
            attr.value = attr.value.arguments[0]

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            returned = str(obj.returns) if isinstance(obj, griffe.Function) else ""
            text = obj.docstring.value
            if obj.path == "dpid.options.Options":  # the sources have its attributes where each is declared
                text = inspect.getdoc(Options) or ""
            obj.docstring.value = rewritten(text, returned)
