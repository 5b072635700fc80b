"""The fault checks at the size of a test; `python -m tests.faults` runs them at full size and prints the table."""

import pytest

from . import harness


@pytest.mark.parametrize("name", harness.present())
def test_faults(name: str) -> None:
    rows = harness.run(name, harness.Size(quick=True))
    for row in rows:
        assert row.ok, row.complaint()
    if all(row.skipped for row in rows):
        pytest.skip("; ".join(row.skipped for row in rows))
