"""An experiment that trains, and measures and draws next to nothing: its time is the program's own."""

from dataclasses import dataclass
from typing import Any

from hw1.experiments import Experiment, Tables, summary


@dataclass
class Bare(Experiment):
    headline = "test_loss"

    def measure(self, runs: dict[str, Any]) -> Tables:
        run = runs["trained"]
        return {"summary": summary(run), "history": run.history}

    def draw(self, tables: Tables, swept: list[str]) -> dict[str, Any]:
        return {}
