"""Notebook 05. `python -m vlmlab.benchmarks.export [NAME ...] [--out DIR]`: write the shipped benchmark sets."""

import argparse
import sys
from pathlib import Path

from vlmlab import runtime
from vlmlab.benchmarks.export import NAMES, export
from vlmlab.errors import VlmlabError


def main() -> None:
    """Export the sets named on the command line, all by default."""
    parser = argparse.ArgumentParser(prog="python -m vlmlab.benchmarks.export", description="Write benchmark sets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)} (all when left out)")
    parser.add_argument("--out", type=Path, default=runtime.data_dir() / "benchmarks", help="default: data/benchmarks")
    chosen = parser.parse_args()
    try:
        export(chosen.names or NAMES, chosen.out)
    except VlmlabError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
