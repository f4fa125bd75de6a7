"""`python -m vlmlab.gpu NAME [--out FILE]`, without typer or rich; `vlmlab gpu` has settings as well. Notebook 16."""

import argparse
import sys

from vlmlab.errors import VlmlabError
from vlmlab.gpu import RUNS, run
from vlmlab.gpu.recording import path


def main(arguments: list[str] | None = None) -> int:
    """Run one and return the exit code: 2 after one line of what is wrong."""
    parser = argparse.ArgumentParser("python -m vlmlab.gpu", description="Measure on a CUDA GPU; writes JSON.")
    parser.add_argument("name", choices=RUNS)
    parser.add_argument("--out", metavar="FILE", help="by default data/gpu_runs/NAME.json")
    given = parser.parse_args(arguments)
    try:
        run(given.name, given.out)
    except (VlmlabError, ImportError, OSError) as error:
        print("vlmlab.gpu: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"wrote {given.out or path(given.name)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
