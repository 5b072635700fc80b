"""Speed, measured: against what a user writes otherwise, and against the same arithmetic with nothing around it.

    python -m benchmarks               # all of it
    python -m benchmarks train cnn     # the rows with these words in their names
    python -m benchmarks --save FILE   # a CSV of what is printed

A row's ways are run in turn, in one process, several times; what is reported is the median of the rounds' ratios with
their quartiles. Absolute times are a side note: they change with the machine and with who else is at work on it.
"""

import os

# Before torch is imported: its profiler would say on stderr that there is no GPU, and which memory it did not see made.
for name, level in (("KINETO_LOG_LEVEL", "99"), ("TORCH_CPP_LOG_LEVEL", "ERROR")):
    os.environ.setdefault(name, level)
