"""The tutorial notebook: kept without outputs, and every cell runs."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys

import pytest

from documentation import ROOT

NOTEBOOK = ROOT / "docs" / "few_labels.ipynb"


@pytest.fixture(scope="module")
def notebooks():
    """The hook that makes pages of notebooks."""
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["notebooks"] = module
    spec.loader.exec_module(module)
    return module


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_kept_without_outputs_and_without_places_of_a_machine():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not any(place in text for place in ("/root", "/home", "/tmp", "C:\\"))
    for cell in code:
        ast.parse("".join(cell["source"]))


def test_a_page_has_the_words_the_code_and_the_best_form_of_each_output(notebooks):
    nbformat = pytest.importorskip("nbformat")
    v4 = nbformat.v4
    png = "iVBORw0KGgo="
    cell = v4.new_code_cell("1 + 1")
    cell.outputs = [
        v4.new_output("stream", name="stderr", text="3/7 images"),
        v4.new_output("stream", name="stdout", text="88.1 %"),
        v4.new_output("execute_result", {"text/plain": "Figure()", "image/png": png}),
        v4.new_output("execute_result", {"text/plain": "Result()", "text/html": "<table></table>"}),
    ]
    page = notebooks.page_of(v4.new_notebook(cells=[v4.new_markdown_cell("# Words"), cell]), "few")
    assert page.text.startswith("# Words\n\n```python\n1 + 1\n```\n")
    assert "```text\n88.1 %\n```" in page.text
    assert "![Output of the cell above](few-1.png)" in page.text
    assert "<table></table>" in page.text
    assert not any(word in page.text for word in ("3/7", "Figure()", "Result()"))
    assert page.pictures == {"few-1.png": b"\x89PNG\r\n\x1a\n"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_cell_of_the_notebook_runs_and_shows_pictures_and_tables(notebooks):
    pytest.importorskip("nbclient", reason="needs the extra docs")
    pytest.importorskip("ipykernel", reason="needs the extra docs")
    page = notebooks.page_of(notebooks.executed(NOTEBOOK), "few_labels")
    assert len(page.pictures) == 3  # neighbours, components, map
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures.values())
    assert page.text.count("<table>") == 2
    assert "% of 599 digits" in page.text
    assert "<td>lidar</td>" in page.text
    assert "Traceback" not in page.text
