"""Settings of all tests: the caller's terminal changes nothing that commands print, and no example is wrong for being
slow on a busy machine (pytest-timeout ends what hangs). Threads that wait for each other by spinning would make it slow:
a short `igpo train` took 46 CPU seconds with two of them there, and 11 with one."""

import os

from hypothesis import settings

for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; commands inherit it

settings.register_profile("igpo", deadline=None)
settings.load_profile("igpo")
