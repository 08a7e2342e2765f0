"""Repeats the notebook's four experiments and sets the results beside its numbers.

    python experiments/dat407_a7/make.py [--data_dir=DIR]

Runs what is not yet in runs/dat407_a7 (25 minutes on two slow cores), then writes the tables of
README.md, between its markers, and copies the small files and the figures beside it.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from mnist_jax import results
from mnist_jax.pages import fill_in, markdown_table, record

HERE = Path(__file__).parent
RUNS = Path("runs/dat407_a7")
NUM_SEEDS = {"baseline": 10, "mlp": 4, "l2_sweep": 3, "cnn": 4}
KEPT = ("config.json", "results.csv", "summary.json")
NOTEBOOK = json.loads((HERE / "notebook.json").read_text())


def run_all(arguments: list[str]) -> dict[str, results.Run]:
    """Runs each experiment once; a finished one is read back."""
    for name, num_seeds in NUM_SEEDS.items():
        if not (RUNS / name / "summary.json").exists():
            shutil.rmtree(RUNS / name, ignore_errors=True)  # what an interrupted run left
            command = [
                *(sys.executable, "-m", "mnist_jax.main", f"--config=configs/{name}.py"),
                *(f"--config.num_seeds={num_seeds}", f"--workdir={RUNS / name}", *arguments),
            ]
            subprocess.run(command, check=True)
    return {name: results.read_run(RUNS / name) for name in NUM_SEEDS}


def spread(values: list[float], scale: float = 100, digits: int = 2) -> str:
    """Writes mean ± population standard deviation, as the notebook's error bars."""
    array = scale * np.array(values)
    return f"{array.mean():.{digits}f} ± {array.std():.{digits}f}"


def single_networks(runs: dict[str, results.Run]) -> str:
    """Compares the three experiments of one grid point."""
    rows = []
    for name in ("baseline", "mlp", "cnn"):
        theirs, ours = NOTEBOOK[name], runs[name].results
        for key, column in (("test_accuracy", "last"), ("best_val_accuracy", "best")):
            ours_key = "test_accuracy" if column == "last" else "best_test_accuracy"
            values = [row[ours_key] for row in ours]
            label = f"{name}, accuracy of the {column} epoch, %"
            rows.append([label, f"{100 * theirs[key]:.2f}", spread(values), str(len(ours)),
                         f"{100 * min(values):.2f} to {100 * max(values):.2f}"])  # fmt: skip
        values = [row["test_objective"] for row in ours]
        rows.append([f"{name}, test loss of the last epoch", f"{theirs['test_loss']:.4f}",
                     spread(values, 1, 4), str(len(ours)),
                     f"{min(values):.4f} to {max(values):.4f}"])  # fmt: skip
    return markdown_table(["", "notebook", "here: mean ± sd", "seeds", "range"], rows)


def sweep(run: results.Run) -> str:
    """Compares the L2 sweep, factor by factor; its three seeds against three replicates."""
    theirs, rows = NOTEBOOK["l2_sweep"], []
    for l2 in sorted(theirs["factors"]):
        (key,) = (k for k in theirs["best_val_accuracy"] if float(k) == l2)
        ours = [row for row in run.results if row["l2"] == l2]
        cells = [f"{l2:g}"]
        for their_key, our_key, scale, digits in (
            ("best_val_accuracy", "best_test_accuracy", 100, 2),
            ("test_accuracy", "test_accuracy", 100, 2),
            ("test_loss", "test_objective", 1, 4),
        ):
            cells.append(spread(theirs[their_key][key], scale, digits))
            cells.append(spread([row[our_key] for row in ours], scale, digits))
        rows.append(cells)
    header = ["L2 factor"]
    for quantity in ("best epoch, %", "last epoch, %", "test objective"):
        header += [f"{quantity}: notebook", "here"]
    return markdown_table(header, rows)


def learning_curve(run: results.Run) -> str:
    """Compares the baseline epoch by epoch."""
    theirs, rows = NOTEBOOK["baseline"], []
    for epoch in range(1, theirs["epochs"] + 1):
        ours = [row for row in run.metrics if row["epoch"] == epoch]
        cells = [str(epoch)]
        for key, column, scale, digits in (
            ("loss", "train_loss", 1, 4),
            ("accuracy", "train_accuracy", 100, 2),
            ("val_loss", "test_loss", 1, 4),
            ("val_accuracy", "test_accuracy", 100, 2),
        ):
            cells.append(f"{scale * theirs[key][epoch - 1]:.{digits}f}")
            cells.append(spread([row[column] for row in ours], scale, digits))
        rows.append(cells)
    header = ["epoch"]
    for quantity in ("training loss", "training accuracy, %", "test loss", "test accuracy, %"):
        header += [f"{quantity}: notebook", "here"]
    return markdown_table(header, rows)


def main() -> None:
    """Runs the experiments and writes the study's tables."""
    runs = run_all(sys.argv[1:])
    sections = {
        "single": single_networks(runs),
        "sweep": sweep(runs["l2_sweep"]),
        "curve": learning_curve(runs["baseline"]),
        "record": record(list(runs.values())),
    }
    fill_in(HERE / "README.md", sections)
    for name in runs:
        (HERE / name).mkdir(exist_ok=True)
        for file in KEPT:
            shutil.copyfile(RUNS / name / file, HERE / name / file)
    for name, figure in (("l2_sweep", "accuracy_vs_l2"), ("l2_sweep", "accuracy_curves"),
                         ("cnn", "accuracy_curves"), ("baseline", "accuracy_curves")):  # fmt: skip
        shutil.copyfile(RUNS / name / "figures" / f"{figure}.png", HERE / f"{name}_{figure}.png")


if __name__ == "__main__":
    main()
