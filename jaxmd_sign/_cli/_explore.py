"""The command that shows a page."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from ._words import complain


def say(line: str) -> None:
    """A line on stdout at once: who started the server waits for it."""
    print(line, flush=True)


@dataclass
class Explore:
    """`jaxmd-sign explore`."""

    store: Annotated[
        str | None, arg(help="Store of a sweep, to show as a map.", metavar="STORE")
    ] = None
    port: Annotated[int, arg(help="Port on 127.0.0.1, any free one if 0.", metavar="N")] = 0
    no_browser: Annotated[bool, arg(help="Print the address, but open no browser.")] = False

    def run(self) -> int:
        """Serve the page until interrupted; the exit status."""
        try:
            from .._explore._server import explore
        except ModuleNotFoundError as error:
            return complain(f"explore needs {error.name}: pip install 'jaxmd-sign[explorer]'.", 2)
        explore(self.store, self.port, not self.no_browser, say)
