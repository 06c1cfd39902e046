"""Notebooks as pages of the site: each is run when the site is built, and its outputs are the page's.

A hook of mkdocs. Nothing is written beside the notebook, which is kept without outputs.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Page:
    """A notebook that was run, as Markdown, and the pictures in it: name -> PNG."""

    text: str
    pictures: dict[str, bytes]


def executed(notebook: Path) -> Any:
    """The notebook with its outputs, from a kernel that starts in an empty folder with a cache of its own.

    Raises nbclient's CellExecutionError for a cell that fails.
    """
    import nbformat
    from nbclient import NotebookClient

    made = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory(prefix="fewvit-notebook-") as folder:
        environment = {**os.environ, "FEWVIT_CACHE_DIR": os.path.join(folder, "cache")}
        client = NotebookClient(made, timeout=900, resources={"metadata": {"path": folder}})
        with client.setup_kernel(env=environment):
            for at, cell in enumerate(made.cells):
                client.execute_cell(cell, at)
    return made


def page_of(made: Any, name: str) -> Page:
    """The notebook `made` as a page; `name` begins those of its pictures."""
    pictures: dict[str, bytes] = {}
    parts = []
    for cell in made.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        parts += list(_shown(cell.outputs, name, pictures))
    return Page("\n\n".join(parts) + "\n", pictures)


def _shown(outputs: Any, name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """What a cell gave: its best form of each output."""
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            file = f"{name}-{len(pictures) + 1}.png"
            pictures[file] = base64.b64decode(data["image/png"])
            yield f"![Output of the cell above]({file})"
        elif "text/html" in data:
            yield f'<div class="scroll">{data["text/html"]}</div>'
        elif output.output_type == "stream" and output.name == "stderr":
            continue  # progress, and what a reader of the page has no use for
        else:
            yield f"```text\n{output.get('text') or data.get('text/plain', '')}\n```"


def on_files(files: Any, config: Any) -> Any:
    """mkdocs' event: every notebook among the files becomes a page."""
    from mkdocs.structure.files import File

    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        name = Path(notebook.src_uri).stem
        page = page_of(executed(Path(notebook.abs_src_path)), name)
        files.append(File.generated(config, f"{name}.md", content=page.text))
        for file, picture in page.pictures.items():
            files.append(File.generated(config, file, content=picture))
    return files
