"""Where commands print for people."""

import contextlib
import sys

import rich.console


class Console(rich.console.Console):
    """Standard output, 110 columns wide where it is no terminal.

    Whoever reads it may leave (`| head`): what is printed then goes nowhere, and jobs and their report go on. Rich
    would end the process.
    """

    def __init__(self) -> None:
        super().__init__(width=None if sys.stdout.isatty() else 110)

    def on_broken_pipe(self) -> None:
        """Called by Rich where nobody reads any more."""
        with contextlib.suppress(SystemExit):
            super().on_broken_pipe()
