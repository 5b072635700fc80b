"""hw1: controlled experiments on how small neural networks train and generalise.

From Python: `hw1.run(["experiment=function", "depth=1,4", "-m"])`, `hw1.load(folder)`, `hw1.compare([folder, …])`;
docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hw1.api import Figure, JobFailed, Result, Tables, compare, load, run
    from hw1.errors import UserError

__version__ = "0.1.0"
__all__ = ["Figure", "JobFailed", "Result", "Tables", "UserError", "__version__", "compare", "load", "run"]

_HOMES = dict.fromkeys(("Figure", "JobFailed", "Result", "Tables", "compare", "load", "run"), "hw1.api")
_HOMES["UserError"] = "hw1.errors"


if not TYPE_CHECKING:  # to a type checker any name would be one

    def __getattr__(name: str) -> Any:
        """What Python users need, imported when it is first asked for: the command line answers before that is."""
        if name not in _HOMES:
            raise AttributeError(f"module 'hw1' has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
