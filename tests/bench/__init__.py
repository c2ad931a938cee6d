"""Benchmarks: what a researcher waits for, as ratios measured in one run (``make bench``)."""
