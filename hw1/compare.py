"""`python -m hw1.compare DIR…`; from Python `hw1.compare([…])`, which is a function and not this module."""

import sys

from hw1.comparing import main

if __name__ == "__main__":
    sys.exit(main())
