"""Repeats the notebook's four experiments by both protocols, and compares them with its numbers.

    python experiments/dat407_a7/make.py [--data_dir=DIR]

Trains or resumes what is not finished in runs/dat407_a7 (three hours on two slow cores), then
writes the tables of README.md, between its markers, and copies the small files and the figures
beside it. The tables of many seeds come from the runs that ../accelerators/make.py has recorded.
"""

import csv
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from mnist_jax import stats
from mnist_jax.report.render import markdown_table
from mnist_jax.report.verdict import LEVEL
from mnist_jax.runs import results
from mnist_jax.runs.results import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies

HERE = Path(__file__).parent
MANY = HERE.parent / "accelerators"
RUNS = Path("runs/dat407_a7")
NAMES = ("baseline", "mlp", "l2_sweep", "cnn")
VALIDATED = {name: f"{name}_validation" for name in NAMES}
NUM_SEEDS = 10
NOTEBOOK = studies.read_record(HERE / "notebook.json")


def run_all(arguments: list[str]) -> dict[str, Run]:
    """Runs each experiment by the notebook's protocol and by an honest one; reads them back."""
    seeds = f"--config.num_seeds={NUM_SEEDS}"
    runs = {}
    for folders, protocol in ((NAMES, ()), (VALIDATED.values(), ("--config.protocol=validation",))):
        for name, folder in zip(NAMES, folders, strict=True):
            options = (f"--config=configs/{name}.py", seeds, *protocol, *arguments)
            runs[folder] = studies.run_once(RUNS / folder, *options)
    return runs


def spread(values: ArrayLike, scale: float = 100, digits: int = 2) -> str:
    """Writes mean ± sample standard deviation."""
    array = scale * np.array(values)
    return f"{array.mean():.{digits}f} ± {array.std(ddof=1):.{digits}f}"


def signed(value: float, digits: int = 2) -> str:
    """Writes a difference, never as -0."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def interval(found: stats.Comparison, scale: float = 100, digits: int = 2) -> str:
    """Writes a mean difference with its 95 % interval."""
    difference, low, high = (
        signed(scale * x, digits) for x in (found.difference, found.low, found.high)
    )
    return f"{difference} ({low} to {high})"


def welch(ours: np.ndarray, theirs: np.ndarray, scale: float) -> stats.Comparison:
    """Compares two groups of runs that have no seed in common, in units of 1 / scale.

    The notebook prints losses with four digits, and an accuracy of 10,000 images has no more.
    """
    groups = dict(enumerate(ours)), dict(enumerate(theirs, start=len(ours)))
    return stats.compare(*groups, stats.Scale(step=1e-4 * scale))


def further_run(values: np.ndarray) -> str:
    """Writes where one more run is expected (95 %), if runs are normally distributed."""
    n = len(values)
    reach = scipy.stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n)
    return f"{values.mean() - reach:.2f} to {values.mean() + reach:.2f}"


def single_networks(runs: dict[str, Run]) -> str:
    """Compares the notebook with the three experiments of one grid point."""
    rows = []
    for name in ("baseline", "mlp", "cnn"):
        theirs, ours = NOTEBOOK[name], runs[name].results
        for words, key, column, scale, digits in (
            ("accuracy of the best epoch, %", "best_val_accuracy", "best_test_accuracy", 100, 2),
            ("accuracy of the last epoch, %", "test_accuracy", "test_accuracy", 100, 2),
            ("test loss of the last epoch", "test_loss", "test_objective", 1, 4),
        ):
            values = scale * np.array([row[column] for row in ours])
            rows.append([
                f"{name}, {words}", f"{scale * theirs[key]:.{digits}f}", spread(values, 1, digits),
                f"{np.median(values):.{digits}f}",
                f"{values.min():.{digits}f} to {values.max():.{digits}f}",
                # Last epochs have rare dips, so that no normal distribution describes them.
                further_run(values) if "best" in words else "—",
            ])  # fmt: skip
    header = ["", "notebook", f"here, {NUM_SEEDS} seeds: mean ± sd", "median", "range",
              "a further run, 95 %"]  # fmt: skip
    return markdown_table(header, rows)


def keras(run: Run) -> str:
    """Compares the CNN with its fits in Keras itself."""
    fits: dict[int, list[dict]] = {}
    for row in studies.read_rows(HERE / "keras_cnn.jsonl"):
        fits.setdefault(row["seed"], []).append(row)
    best = {
        "here": 100 * np.array([row["best_test_accuracy"] for row in run.results]),
        "in Keras": 100 * np.array([max(row["val_accuracy"] for row in x) for x in fits.values()]),
    }
    losses = {
        "here": [row["train_loss"] for row in run.results],
        "in Keras": [rows[-1]["loss"] for rows in fits.values()],
    }
    rows = [
        [words, str(len(values)), spread(values, 1), f"{values.min():.2f} to {values.max():.2f}",
         further_run(values), spread(losses[words], 1, 4)]
        for words, values in best.items()
    ]  # fmt: skip
    theirs = NOTEBOOK["cnn"]
    rows.append(["the notebook", "1", f"{100 * theirs['best_val_accuracy']:.2f}", "—", "—",
                 f"{theirs['loss'][-1]:.4f}"])  # fmt: skip
    header = ["", "fits", "accuracy of the best epoch, %: mean ± sd", "range",
              "a further run, 95 %", "training loss, last epoch"]  # fmt: skip
    found = welch(*best.values(), 100)
    return (
        f"{markdown_table(header, rows)}\n\nBest epochs here less those in Keras:"
        f" {interval(found, 1)} points (95 %, Welch; p = {found.p:.2g})."
    )


def sweep(run: Run) -> str:
    """Compares the L2 sweep, factor by factor, with the notebook's three replicates."""
    theirs, rows = NOTEBOOK["l2_sweep"], []
    for words, their_key, our_key, scale, digits in (
        ("accuracy of the best epoch, %", "best_val_accuracy", "best_test_accuracy", 100, 2),
        ("accuracy of the last epoch, %", "test_accuracy", "test_accuracy", 100, 2),
        ("test objective of the last epoch", "test_loss", "test_objective", 1, 4),
    ):
        for l2 in sorted(theirs["factors"]):
            (key,) = (k for k in theirs[their_key] if float(k) == l2)
            notebook = scale * np.array(theirs[their_key][key])
            here = scale * np.array([row[our_key] for row in run.results if row["l2"] == l2])
            found = welch(here, notebook, scale)
            rows.append([
                words, f"{l2:g}", *(spread(values, 1, digits) for values in (notebook, here)),
                interval(found, 1, digits), f"{found.p:.2g}",
            ])  # fmt: skip
    header = ["", "L2 factor", "notebook", "here", "difference (95 %, Welch)", "p"]
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
    """Compares the chosen epoch with the last, chosen on the test set or not."""
    rows = []
    for name in NAMES:
        grid = sorted(runs[name].summary["grid"], key=lambda point: point["l2"])
        for point in grid:
            label = name + (f", L2 {point['l2']:g}" if len(grid) > 1 else "")
            for folder in (name, VALIDATED[name]):
                run = runs[folder]
                protocol, trials = results.protocol(run), results.trials_of(run, point)
                chosen, last = (
                    np.array([row[column] for row in trials])
                    for column in (protocol.column, "test_accuracy")
                )
                gain = 100 * (chosen - last)
                rows.append([
                    label, protocol.words.removeprefix("epoch chosen on "), spread(chosen),
                    spread(last), signed(gain.mean()), signed(np.median(gain)),
                    f"{signed(gain.min())} to {signed(gain.max())}",
                ])  # fmt: skip
    header = ["", "epoch chosen on", "chosen epoch, %", "last epoch, %", "gain, points: mean",
              "median", "range"]  # fmt: skip
    return markdown_table(header, rows)


Accuracies = dict[float, dict[int, float]]
"""By L2 factor and seed."""


def accuracies_of(run: Run) -> Accuracies:
    """Returns the accuracies that count of each factor, from the smallest on."""
    grid = sorted(run.summary["grid"], key=lambda point: point["l2"])
    return {
        point["l2"]: results.by_seed(run, point, results.protocol(run).column) for point in grid
    }


def accuracies_of_many(name: str, column: str) -> Accuracies:
    """Returns the same of a run on a GPU, a column of its rows."""
    with open(MANY / name / "accuracies.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["diverged_epoch"] == "0"]
    found: Accuracies = {}
    for row in sorted(rows, key=lambda row: float(row["l2"])):
        found.setdefault(float(row["l2"]), {})[int(row["seed"])] = float(row[column])
    return found


def factors(by_protocol: dict[str, Accuracies], digits: int = 2) -> str:
    """Compares each L2 factor with 1e-6, seed by seed, by both protocols, and their gains."""
    rows, gains, test_images = [], [], stats.Scale(step=1e-4)
    for words, (_, least), *others in (
        (words, *accuracies.items()) for words, accuracies in by_protocol.items()
    ):
        found = [stats.compare(now, least, test_images) for _, now in others]
        gains.append({l2: {s: now[s] - least[s] for s in now} for l2, now in others})
        adjusted = stats.holm([comparison.p for comparison in found])
        level = LEVEL / len(found)
        for (l2, _), gain, p in zip(others, found, adjusted, strict=True):
            needed = "—"
            if p < LEVEL:
                needed = str(stats.seeds_needed(gain.difference, gain.std, level=level))
            shown = (stats.minimum_difference(gain.std, n, level=level) for n in (3, gain.n))
            rows.append([
                words, f"{l2:g}", str(gain.n), interval(gain, digits=digits), f"{p:.2g}", needed,
                *(f"{100 * x:.2f}" for x in shown),
            ])  # fmt: skip
    header = ["", "L2 factor", "seeds", "less 1e-6, points (95 % interval)", "p (Holm, of 4)",
              "seeds to show this", "3 seeds show, points", "these show"]  # fmt: skip
    on_test, on_validation, *_ = gains
    between = []
    for l2, theirs in on_validation.items():
        same = {seed: on_test[l2][seed] for seed in theirs}
        # Two steps of rounding more, which is nothing against this scatter.
        found = stats.compare(same, theirs, test_images)
        cells = (str(found.n), interval(found, digits=digits), f"{found.p:.2g}")
        between.append([f"{l2:g}", *cells])
    second = ["L2 factor", "seeds",
              "gain by the test set's choice less that by validation images', points",
              "p"]  # fmt: skip
    return f"{markdown_table(header, rows)}\n\n{markdown_table(second, between)}"


def many_seeds() -> str:
    """Compares the factors again, where a GPU trained 200 and 100 seeds."""
    return factors(
        {
            "epoch chosen on the test set": accuracies_of_many("l2_1000", "best_test_accuracy"),
            "epoch chosen on validation images": accuracies_of_many(
                "l2_validation", "test_accuracy_at_best_validation"
            ),
            "last epoch, all images": accuracies_of_many("l2_1000", "test_accuracy"),
        },
        digits=3,
    )


def many_cnns() -> str:
    """Says how many of the CNNs that a GPU trained reach the notebook's best epoch."""
    theirs, rows = NOTEBOOK["cnn"]["best_val_accuracy"], []
    for words, column in (("best epoch", "best_test_accuracy"), ("last epoch", "test_accuracy")):
        ((_, found),) = accuracies_of_many("cnn_64", column).items()
        values = 100 * np.array([*found.values()])
        reach = sum(round(1e4 * value) >= round(1e4 * theirs) for value in found.values())
        low, high = scipy.stats.binomtest(reach, len(values)).proportion_ci()
        rows.append([
            words, str(len(values)), spread(values, 1), f"{np.median(values):.2f}",
            f"{values.min():.2f} to {values.max():.2f}", str(reach),
            f"{100 * low:.2g} to {100 * high:.2g} %",
        ])  # fmt: skip
    header = ["accuracy, %", "seeds", "mean ± sd", "median", "range",
              f"that reach {100 * theirs:.2f} %", "chance of one (95 %, binomial)"]  # fmt: skip
    return markdown_table(header, rows)


def main() -> None:
    """Runs the experiments and writes the study's tables."""
    runs = run_all(sys.argv[1:])
    sections = {
        "single": single_networks(runs),
        "keras": keras(runs["cnn"]),
        "protocols": protocols(runs),
        "factors": factors(
            {
                results.protocol(runs[folder]).words: accuracies_of(runs[folder])
                for folder in ("l2_sweep", VALIDATED["l2_sweep"])
            }
        ),
        "many_seeds": many_seeds(),
        "many_cnns": many_cnns(),
        "sweep": sweep(runs["l2_sweep"]),
        "curve": learning_curve(runs["baseline"]),
        "record": studies.describe_runs(list(runs.values())),
    }
    studies.fill_in(HERE / "README.md", sections)
    for name in runs:
        studies.keep_files(RUNS / name, HERE / name)
    studies.keep_files(RUNS / "baseline", HERE / "baseline", ["metrics.jsonl"])
    for name, figure in (("l2_sweep", "accuracy_vs_l2"), ("l2_sweep", "accuracy_curves"),
                         ("l2_sweep_validation", "accuracy_vs_l2"), ("cnn", "accuracy_curves"),
                         ("baseline", "accuracy_curves")):  # fmt: skip
        shutil.copyfile(RUNS / name / "figures" / f"{figure}.png", HERE / f"{name}_{figure}.png")


if __name__ == "__main__":
    main()
