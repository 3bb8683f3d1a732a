"""How mkdocstrings shows the examples of our docstrings: as code, though no fence is around them.

A docstring is Markdown, but for the doctest below `!!! example`, which Markdown takes for a
quotation.
"""

import re

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n\1\S.*)*", re.MULTILINE)


def fenced(text: str) -> str:
    """The docstring with a fence around every doctest."""
    return _DOCTEST.sub(lambda found: "{1}```pycon\n{0}\n{1}```".format(*found.group(0, 1)), text)


class Examples(griffe.Extension):
    """Fences for every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
