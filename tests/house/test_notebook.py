"""The notebook runs from top to bottom, at a size a test can afford, and draws what it promises."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks/quickstart.ipynb"
SMALLER = {
    '"1L-a"': '"./small"',
    'corpora=("python",)': 'corpora=("notes",), context=32',
    "n_latents=4096, k=16": "n_latents=64, k=4",
    "n_tokens=1_000_000": "n_tokens=20_000, batch_size=512, buffer_tokens=8192",
    "500_000": "10_000",
}


def test_the_notebook_is_kept_as_it_was_executed() -> None:
    cells = [c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code"]
    for cell in cells:
        assert cell.execution_count is not None
        for output in cell.outputs:
            assert output.output_type != "error"


# Jupyter's own client opens sockets and event loops in ways that warn.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(world, tmp_path: Path) -> None:
    (tmp_path / "notes").symlink_to(world.home / "corpus")
    (tmp_path / "small").symlink_to(world.home / "model/model")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    source = "\n".join(c.source for c in notebook.cells)
    for old, new in SMALLER.items():
        assert old in source, f"the notebook no longer says {old!r}"
        for cell in notebook.cells:
            cell.source = cell.source.replace(old, new)
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    drawn = [
        output.data["text/html"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "data" in output and "text/html" in output.data
    ]
    assert len(drawn) == 2, "the dictionary and the feature show themselves"
    assert re.search(r"Dictionary topk", drawn[0])
    assert (tmp_path / "runs/report.html").is_file()
