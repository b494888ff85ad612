"""An extension of Griffe: doctests in docstrings are shown as code.

Markdown would make a quotation of every line that begins with >>>.
"""

import re
from typing import Any

import griffe

# From a line with a prompt to the next empty line, which ends the output.
_DOCTEST = re.compile(r"^( *)>>> .*(?:\n.*\S.*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences the doctests of a docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of an object that has one."""
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(docstring: str) -> str:
    """Puts every doctest between ```pycon and ```."""
    return _DOCTEST.sub(r"\1```pycon\n\g<0>\n\1```", docstring)
