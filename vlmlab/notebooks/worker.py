"""Runs one notebook with papermill in a process of its own: `python -m vlmlab.notebooks.worker JOB`. Every notebook.

JOB is a JSON file: input, output, parameters, env, cwd, seen. The worker prints one JSON event a line (start, cell,
done) for the runner that watches it, and writes to `seen` every error and every text on stderr that the kernel sent,
wherever it ended up: in a cell, in an Output widget, or in an output that was cleared again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import execute_notebook


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


class Witness(PapermillNotebookClient):
    """papermill's client, writing down each error and each text on stderr that passes by."""

    notes: list[dict[str, Any]]

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        content = msg.get("content", {})
        kind = msg.get("msg_type", "")
        if kind == "error":
            self.note(cell_index, "error", f"{content.get('ename')}: {content.get('evalue')}")
        elif kind == "stream" and content.get("name") == "stderr":
            self.note(cell_index, "stderr", content.get("text", ""))
        elif kind in ("comm_open", "comm_msg"):
            for output in content.get("data", {}).get("state", {}).get("outputs") or []:
                if output.get("output_type") == "error":
                    self.note(cell_index, "widget-error", f"{output.get('ename')}: {output.get('evalue')}")
                elif output.get("output_type") == "stream" and output.get("name") == "stderr":
                    self.note(cell_index, "widget-stderr", output.get("text", ""))
        return super().process_message(msg, cell, cell_index)

    def note(self, cell_index: int, kind: str, text: str) -> None:
        self.notes.append({"cell": cell_index, "kind": kind, "text": text[:2000]})


class Engine(NBClientEngine):
    """papermill's engine with `Witness` in place of its client."""

    notes: list[dict[str, Any]] = []  # noqa: RUF012  one worker runs one notebook; papermill calls classmethods only

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **keywords: Any) -> Any:
        client = Witness(
            nb_man,
            kernel_name=kernel_name,
            startup_timeout=keywords.get("start_timeout", 60),
            timeout=None,
            on_cell_start=lambda cell, cell_index: say(event="cell", index=cell_index),
            ipython_hist_file=":memory:",
        )
        client.notes = cls.notes
        return client.execute()


def main(path: str) -> int:
    """Run the job and return 0 when papermill got to the end, 1 when a cell failed, 3 when the kernel died."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    os.environ.update(job["env"])
    papermill_engines.register("vlmlab", Engine)
    say(event="start")
    code, trouble = 0, ""
    try:
        execute_notebook(
            job["input"],
            job["output"],
            parameters=job["parameters"],
            engine_name="vlmlab",
            kernel_name="python3",
            cwd=job["cwd"],
            progress_bar=False,
            autosave_cell_every=0,
        )
    except PapermillExecutionError:
        code = 1
    except (DeadKernelError, CellTimeoutError, RuntimeError, TimeoutError, OSError) as error:
        code, trouble = 3, f"{type(error).__name__}: {error}"
    Path(job["seen"]).write_text(json.dumps(Engine.notes), encoding="utf-8")
    say(event="done", code=code, trouble=trouble)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
