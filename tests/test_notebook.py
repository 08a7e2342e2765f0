"""The notebook of the assignment, executed from its top to its end."""

import json
import re

import pytest
from server import ROOT

NOTEBOOK = ROOT / "experiments" / "dat407_a7" / "notebook.ipynb"
CHOICE = 'DATASET = "mnist"'


@pytest.mark.slow
def test_it_runs_to_its_end_on_digits_when_one_line_is_changed(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    text = NOTEBOOK.read_text(encoding="utf-8")
    asked = json.dumps(CHOICE)[1:-1]
    assert text.count(asked) == 1
    notebook = nbformat.reads(text.replace(asked, asked.replace("mnist", "digits")), as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    place = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=600, resources=place).execute()
    names = {path.parent.name for path in tmp_path.glob("runs/digits/*/summary.json")}
    assert names == {"baseline", "mlp", "l2_sweep", "cnn", "beyond_98_47"}
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pages = [x["data"]["text/html"] for x in shown if "text/html" in x.get("data", {})]
    assert sum("<img src=" in page for page in pages) == 4  # a run each
    assert not any(output.output_type == "error" for output in shown)


def test_its_outputs_are_those_of_mnist_and_of_its_cells_in_order():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert "60000 training and 10000 test images" in outputs
    assert re.search(r"l2_sweep on mnist: 5 grid points, 15 trials, 40 epochs", outputs)
    assert "digits" not in outputs
    assert not re.search(r"/(home|root|tmp|Users)/|stderr", outputs)
