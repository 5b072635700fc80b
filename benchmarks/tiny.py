"""An experiment that hardly takes time itself, to see what a sweep costs beside its jobs: trained, kept, no figure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hw1.experiments import Experiment, Tables, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hw1.laboratory import Run


@dataclass(frozen=True)
class Tiny(Experiment):
    """Final metrics of one run."""

    headline = "test_loss"

    def measure(self, runs: "dict[str, Run]") -> Tables:
        """`history` and `summary`."""
        (run,) = runs.values()
        return {"history": run.history, "summary": summary(run)}

    def draw(self, tables: Tables, swept: list[str]) -> "dict[str, Figure]":
        """None: a figure is most of a tiny job of `function`."""
        return {}
