"""`python -m benchmarks.peak WORDS…`: a command line of hw1's; the most bytes of one of its processes, into `peak`."""

import os
import sys
from pathlib import Path

import psutil

from hw1.cli import main


def _peak(process: int) -> int:
    return 1024 * int(Path(f"/proc/{process}/status").read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    code = main(sys.argv[1:])
    workers = [child.pid for child in psutil.Process().children(recursive=True)]  # which wait for further jobs
    Path("peak").write_text(str(max(map(_peak, [os.getpid(), *workers]))), encoding="ascii")
    sys.exit(code)
