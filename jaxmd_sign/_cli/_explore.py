"""The command that shows a page."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from ._words import complain


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
            return complain(
                f"explore needs {error.name}: pip install 'jaxmd-sign[explorer]'.", 2
            )
        try:
            explore(self.store, self.port, not self.no_browser, lambda line: print(line, flush=True))
        except KeyboardInterrupt:
            print()
        return 0
