"""What a sweep survives: faults injected into the store, into jobs and into command lines, and counted.

    python -m tests.faults                # all, at full size, as a table
    python -m tests.faults lines races    # some
    python -m tests.faults --quick        # the sizes that the test suite runs

A check is a module with a function `check(size, folder)`; `harness` has what they share.
"""

import sys
from pathlib import Path

TESTS = str(Path(__file__).resolve().parent.parent)
if TESTS not in sys.path:
    sys.path.append(TESTS)  # whose helpers are imported by their bare names, as pytest would have it
