"""
Strip the notebooks of what they printed, run them on generated fleets, and put their figures into ``docs/images``.

::

    make notebooks

A figure is called by its notebook and its cell: ``fleet_health_review-incidents.png``. The generated fleets end at a fixed
moment, so that the pictures change only where notebooks, reports or the sample do.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.font_manager  # the list of fonts is made here: a kernel would tell on stderr that it takes time
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
#: In the order in which they are read.
NOTEBOOKS = tuple(sorted(ROOT.glob("notebooks/*.ipynb")))

#: What is kept of a notebook's metadata: any kernel of Python runs it.
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
#: Variables that would make a notebook read another database, or draw in another way.
_FOREIGN = ("FLEETPULSE_", "IPYTHON", "JUPYTER_", "MATPLOTLIBRC", "MPLBACKEND")
#: A cell that takes longer hangs.
_CELL_S = 120


def stripped(text: str) -> str:
    """Return the notebook *text* without outputs, counts and what an editor or a machine left in it."""
    notebook = json.loads(text)
    notebook["metadata"] = _METADATA
    for cell in notebook["cells"]:
        cell["metadata"] = {}
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    # As Jupyter writes it, so that saving changes what was edited alone.
    return json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def execute(path: Path, folder: Path, environment: Mapping[str, str] | None = None) -> Any:
    """
    Run the notebook at *path* from top to bottom, in this interpreter's own kernel and with nobody's settings.

    Args:
        folder: Where it runs.
        environment: Variables for it, such as ``FLEETPULSE_DATABASE_URL``.

    Returns:
        The notebook with its outputs.

    Raises:
        CellExecutionError: A cell raised.
    """
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # has no types
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    with tempfile.TemporaryDirectory() as files:
        own = {"IPYTHONDIR": files, "MATPLOTLIBRC": matplotlib.get_data_path()}
        asyncio.run(_execute(notebook, folder, Path(files), {**kept, **own, **(environment or {})}))
    return notebook


async def _execute(notebook: Any, folder: Path, files: Path, environment: Mapping[str, str]) -> None:
    kernel = AsyncKernelManager(
        kernel_name="python3",
        # Without folders to look into, the kernel is that of this interpreter.
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        # Sockets in a folder of our own: nobody else can listen in, and no port is taken.
        transport="ipc",
        connection_file=str(files / "kernel.json"),
    )
    client = NotebookClient(notebook, km=kernel, timeout=_CELL_S, resources={"metadata": {"path": str(folder)}})
    await client.async_execute(cleanup_kc=True, env=environment)


def figures(path: Path, notebook: Any) -> Iterator[tuple[str, bytes]]:
    """Yield file name and PNG of each figure of the *notebook* that was at *path*."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                yield f"{path.stem[3:]}-{cell.id}.png", base64.b64decode(output.data["image/png"])


def main() -> None:
    """Bring notebooks and pictures into the state in which they are kept."""
    for path in NOTEBOOKS:
        path.write_text(stripped(path.read_text(encoding="utf-8")), encoding="utf-8")
        with tempfile.TemporaryDirectory() as folder:
            drawn = dict(figures(path, execute(path, Path(folder))))
        for old in IMAGES.glob(f"{path.stem[3:]}-*.png"):
            if old.name not in drawn:
                old.unlink()
        for name, png in drawn.items():
            (IMAGES / name).write_bytes(png)
            print(f"docs/images/{name}: {len(png) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
