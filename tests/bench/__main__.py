"""``python -m tests.bench [group …]``: run the benchmarks, print them, write figures/bench/*.csv.

Each group runs in a process of its own. Groups: calibration, evaluation, decoding, selection, safety, gpu.
"""

import argparse
import importlib
import subprocess
import sys
import time

import pandas as pd
import psutil

from . import common, report


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.bench", description="Ratios measured in one run.")
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(report.GROUPS)} (default: all)")
    chosen = parser.parse_args().groups or list(report.GROUPS)
    if unknown := set(chosen) - set(report.GROUPS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if len(chosen) == 1:
        return measure(chosen[0])
    codes = [subprocess.run([sys.executable, "-m", "tests.bench", group]).returncode for group in chosen]
    print(f"\n{report.directory() / 'summary.md'}")
    return max(codes)


def measure(group: str) -> int:
    """One group, in this process."""
    module, start = importlib.import_module(f"tests.bench.{group}"), time.perf_counter()
    if why := getattr(module, "why_not", lambda: None)():
        print(f"{report.GROUPS[group]}: not run ({why})", flush=True)
        return 0
    load = psutil.getloadavg()[0]  # before: how busy others keep the machine
    rows = pd.DataFrame(module.run()).assign(load=load, clock=common.clock().__name__)
    folder = report.directory()
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / f"{group}.csv", index=False, float_format="%.4g")
    about = pd.DataFrame(common.machine().items(), columns=["what", "value"])
    about.insert(0, "group", group)
    if (folder / "machine.csv").is_file():
        known = pd.read_csv(folder / "machine.csv", dtype=str, keep_default_na=False)
        about = pd.concat([known[known["group"] != group], about])
    about.to_csv(folder / "machine.csv", index=False)
    report.write(folder)
    print(f"\n{report.GROUPS[group]} ({time.perf_counter() - start:.0f} s)")
    print(rows.to_string(index=False, float_format="%.3g", na_rep=""), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
