"""`python -m hw1`."""

import sys

from hw1 import collect_rarely
from hw1.cli import main

if __name__ == "__main__":
    collect_rarely()
    sys.exit(main())
