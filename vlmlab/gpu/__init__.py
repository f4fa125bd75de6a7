"""What only a GPU can measure: full-size models, long inputs, the scan's kernels. Notebook 16.

`python -m vlmlab.gpu NAME` needs torch, numpy and transformers alone (`train` also what renders scenes) and writes
data/gpu_runs/NAME.json; `results` reads what is there.
"""

from vlmlab.gpu.recording import NOT_RUN, result, results, run
from vlmlab.gpu.runs import RUNS

__all__ = ["NOT_RUN", "RUNS", "result", "results", "run"]
