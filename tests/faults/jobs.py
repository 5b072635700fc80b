"""Whole jobs by the command line, in children that begin at once: what they leave, and what they say of an error."""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from .deeds import Finding, warm
from .harness import command_line, contents

JOB = [  # half a second of training and tables, one of figures
    "steps=3", "replicas=1", "threads=1", "depth=1", "width=2", "budget=null", "batch_size=10", "dataset.points=60",
    "dataset.test_points=20", "dataset.validation=20", "hydra.run.dir=out",
]  # fmt: skip


@lru_cache(maxsize=1)
def import_all() -> None:
    """What a job imports, so that its children begin at once."""
    import filelock  # noqa: F401

    import hw1.experiments.function  # noqa: F401
    from hw1 import compose, figures, job, laboratory, outcome, sweep  # noqa: F401

    warm()


def typed(folder: Path, *words: str, **settings: Any) -> dict[str, Any]:
    """A whole tiny job in `folder`."""
    return command_line([*JOB, *words], folder, **settings)


def tables(folder: Path) -> dict[str, bytes]:
    """A job's tables, and its stored weights; not what is kept of the tables, under another key after each training."""
    return {
        name: content
        for name, content in contents(folder).items()
        if name.endswith((".csv", ".safetensors")) and ".measured" not in Path(name).parts
    }


def wrong_output(got: dict[str, Any], code: int | None) -> list[Finding]:
    """What is wrong with what a command line said of an error: code 1 or 2, one line that has the system's words."""
    findings: list[Finding] = []
    if "Traceback" in got["out"] + got["err"] or "Logging error" in got["err"]:
        return [("other", f"exit code {got['code']} and a traceback: … {' | '.join(got['err'].splitlines()[-7:])}")]
    lines = [line for line in got["err"].splitlines() if not line.lower().startswith("warning: ")]
    if got["code"] not in (0, 1, 2):
        findings.append(("other", f"exit code {got['code']}"))
    if got["code"] and len(lines) != 1:
        findings.append(("other", f"not one line: {got['err'][:2000]!r}"))
    if got["code"] and code and os.strerror(code) not in got["err"]:
        findings.append(("other", f"without the reason: {got['err'][:2000]!r}"))
    return findings
