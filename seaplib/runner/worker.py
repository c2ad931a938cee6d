"""Executes a notebook with papermill, in a process of its own: ``python -m seaplib.runner.worker``.

The job arrives as a line of JSON on standard input; events leave as lines of JSON on standard
output: the kernel's process id, each cell as it starts, and the end or the error. Standard input
stays open as a lifeline: when the runner is gone it closes, and this process ends with its kernel.
"""

import json
import os
import sys
import threading

# nbformat's validation would load a grammar of web addresses: a second for every notebook, unused here.
# It must stand before the imports below, which load it.
sys.modules.setdefault("rfc3987_syntax", None)

import psutil
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError, execute_notebook
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines

KERNEL_COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class OwnKernelManager(AsyncKernelManager):
    """Starts this very Python, whichever kernels a user has installed under the same name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=KERNEL_COMMAND, display_name="Python 3", language="python")


class Client(PapermillNotebookClient):
    """Papermill's client, which also reports each cell and checks that the kernel outlived the last."""

    def papermill_execute_cells(self) -> None:
        self.events({"kernel": self.km.provisioner.pid})
        super().papermill_execute_cells()
        if not run_sync(self.km.is_alive)():
            raise DeadKernelError("Kernel died")

    def execute_cell(self, cell, cell_index, **kwargs):
        if cell.cell_type == "code":
            self.events({"cell": cell_index, "title": title(self.nb.cells, cell_index)})
        return super().execute_cell(cell, cell_index, **kwargs)


class Engine(NBClientEngine):
    """Papermill's engine with :class:`Client` and :class:`OwnKernelManager`."""

    events = staticmethod(print)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, start_timeout=60, **kwargs):
        options = {"kernel_manager_class": OwnKernelManager, "kernel_name": kernel_name, "timeout": None}
        client = Client(nb_man, startup_timeout=start_timeout, **options)
        client.events = cls.events
        return client.execute()


def title(cells: list, index: int) -> str:
    """The first line of the last text before a cell, without Markdown's marks."""
    for cell in reversed(cells[:index]):
        lines = [line.strip("#*_` \t") for line in cell.source.splitlines() if line.strip()]
        if cell.cell_type == "markdown" and lines:
            return lines[0]
    return "start"


def main() -> int:
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library's output must not be taken for an event
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_die_with_the_runner, daemon=True).start()
    Engine.events = staticmethod(lambda event: print(json.dumps(event), file=events))
    papermill_engines.register("seaplib", Engine)
    try:
        execute_notebook(
            job["notebook"],
            job["output"],
            parameters=job["parameters"],
            engine_name="seaplib",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            start_timeout=300,
            cwd=job["directory"],
        )
    except PapermillExecutionError as error:
        Engine.events({"error": " ".join(f"{error.ename}: {error.evalue}".split())})
        return 1
    except DeadKernelError:
        Engine.events({"error": "the kernel died (killed, out of memory or crashed)"})
        return 1
    Engine.events({"done": True})
    return 0


def _die_with_the_runner() -> None:
    while os.read(0, 4096):
        pass
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
