"""Benchmarks: what a researcher waits for, as ratios measured in one run (``make bench``)."""

import os

os.environ.setdefault("TQDM_DISABLE", "1")  # lm-eval draws bars of its own
