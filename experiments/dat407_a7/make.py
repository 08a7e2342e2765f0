"""Repeats the notebook's four experiments by both protocols, and sets them beside its numbers.

    python experiments/dat407_a7/make.py [--data_dir=DIR]

Runs what is not yet in runs/dat407_a7, or goes on with it (four hours on two slow cores), then
writes the tables of README.md, between its markers, and copies the small files and the figures
beside it.
"""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.stats

from mnist_jax import results, stats
from mnist_jax.pages import fill_in, markdown_table, record
from mnist_jax.results import Run

HERE = Path(__file__).parent
RUNS = Path("runs/dat407_a7")
NAMES = ("baseline", "mlp", "l2_sweep", "cnn")
VALIDATED = {name: f"{name}_validation" for name in NAMES}
NUM_SEEDS = 10
KEPT = ("config.json", "results.csv", "summary.json")
NOTEBOOK = json.loads((HERE / "notebook.json").read_text())


def run_all(arguments: list[str]) -> dict[str, Run]:
    """Runs each experiment once by each protocol; a finished one is read back."""
    for name in NAMES:
        for folder, num_validation in ((name, 0), (VALIDATED[name], 10_000)):
            if not (RUNS / folder / "summary.json").exists():
                command = [
                    *(sys.executable, "-m", "mnist_jax.main", f"--config=configs/{name}.py"),
                    *(f"--config.num_seeds={NUM_SEEDS}", f"--workdir={RUNS / folder}"),
                    *([f"--config.num_validation={num_validation}"] * bool(num_validation)),
                    *arguments,
                ]
                subprocess.run(command, check=True)
    folders = [*NAMES, *VALIDATED.values()]
    return {folder: results.read_run(RUNS / folder) for folder in folders}


def spread(values: list[float], scale: float = 100, digits: int = 2) -> str:
    """Writes mean ± population standard deviation, as the notebook's error bars."""
    array = scale * np.array(values)
    return f"{array.mean():.{digits}f} ± {array.std():.{digits}f}"


def single_networks(runs: dict[str, Run]) -> str:
    """Sets the notebook's number beside those of the three experiments of one grid point."""
    rows = []
    for name in ("baseline", "mlp", "cnn"):
        theirs, ours = NOTEBOOK[name], runs[name].results
        for words, key, column, scale, digits in (
            ("accuracy of the last epoch, %", "test_accuracy", "test_accuracy", 100, 2),
            ("accuracy of the best epoch, %", "best_val_accuracy", "best_test_accuracy", 100, 2),
            ("test loss of the last epoch", "test_loss", "test_objective", 1, 4),
        ):
            values = scale * np.array([row[column] for row in ours])
            n, mean, sd = len(values), values.mean(), values.std(ddof=1)
            reach = scipy.stats.t.ppf(0.975, n - 1) * sd * math.sqrt(1 + 1 / n)
            rows.append([
                f"{name}, {words}", f"{scale * theirs[key]:.{digits}f}",
                f"{mean:.{digits}f} ± {sd:.{digits}f}", str(n),
                f"{values.min():.{digits}f} to {values.max():.{digits}f}",
                f"{mean - reach:.{digits}f} to {mean + reach:.{digits}f}",
            ])  # fmt: skip
    header = ["", "notebook", "here: mean ± sd", "seeds", "range", "a further run, 95 %"]
    return markdown_table(header, rows)


def sweep(run: Run) -> str:
    """Compares the L2 sweep, factor by factor, with the notebook's three replicates."""
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


def learning_curve(run: Run) -> str:
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


def protocols(runs: dict[str, Run]) -> str:
    """Says what choosing the epoch gains over the last one: on the test set, and on validation."""
    rows = []
    for name in NAMES:
        cells = []
        for folder, column in (
            (name, "best_test_accuracy"),
            (VALIDATED[name], "test_accuracy_at_best_validation"),
        ):
            run = runs[folder]
            chosen, last = (
                [results.by_seed(run, point, c) for point in run.summary["grid"]]
                for c in (column, "test_accuracy")
            )
            cells.append([
                [spread(list(values.values())) for values in (now, then)]
                + [points(stats.compare(now, then))]
                for now, then in zip(chosen, last, strict=True)
            ])  # fmt: skip
        grid = runs[name].summary["grid"]
        for point, by_test, by_validation in zip(grid, *cells, strict=True):
            label = name + (f", L2 {point['l2']:g}" if len(grid) > 1 else "")
            rows.append([label, *by_test, *by_validation])
    header = [""]
    for images, split in (("60,000", "the test set"), ("50,000", "validation")):
        header += [f"{images} images: epoch chosen on {split}, %", "last epoch, %", "gain, points"]
    return markdown_table(header, rows)


def points(found: stats.Comparison) -> str:
    """Writes a difference of accuracies in percentage points with its 95 % interval."""
    low, high = 100 * found.low, 100 * found.high
    return f"{100 * found.difference:+.2f} ({low:+.2f} to {high:+.2f})"


def factors(runs: dict[str, Run]) -> str:
    """Compares each L2 factor with 1e-6, seed by seed, by both protocols."""
    rows = []
    for folder in ("l2_sweep", VALIDATED["l2_sweep"]):
        run = runs[folder]
        protocol = results.protocol(run)
        grid = sorted(run.summary["grid"], key=lambda point: point["l2"])
        values = [results.by_seed(run, point, protocol.column) for point in grid]
        found = [stats.compare(now, values[0]) for now in values[1:]]
        adjusted = stats.holm([comparison.p for comparison in found])
        for point, comparison, p in zip(grid[1:], found, adjusted, strict=True):
            visible = stats.minimum_difference(comparison.std, comparison.n)
            needed = "—"
            if abs(comparison.difference) > 1e-9:
                needed = str(stats.seeds_needed(comparison.difference, comparison.std))
            rows.append([f"{point['l2']:g}", protocol.words, points(comparison), f"{p:.2g}",
                         f"{100 * visible:.2f}", needed])  # fmt: skip
    header = ["L2 factor", "protocol", "less 1e-6, points (95 % interval)", "p (Holm)",
              f"what {NUM_SEEDS} seeds can show, points", "seeds to show this one"]  # fmt: skip
    return markdown_table(header, rows)


def main() -> None:
    """Runs the experiments and writes the study's tables."""
    runs = run_all(sys.argv[1:])
    sections = {
        "single": single_networks(runs),
        "protocols": protocols(runs),
        "factors": factors(runs),
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
