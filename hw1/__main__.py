"""`python -m hw1`."""

import sys

from hw1.cli import main

if __name__ == "__main__":
    sys.exit(main())
