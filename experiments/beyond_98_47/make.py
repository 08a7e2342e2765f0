"""Searches a recipe on validation images, trains it on fresh seeds, and explains what it gained.

    python experiments/beyond_98_47/make.py [--data_dir=DIR]

Trains or resumes what is not finished in runs/beyond_98_47 (four hours on two slow cores), then
writes the tables of README.md between its markers, the figure, and the small files of each run.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

from mnist_jax import stats
from mnist_jax.report.figures import canvas
from mnist_jax.report.formatting import interval, percent, signed
from mnist_jax.report.render import markdown_table
from mnist_jax.runs import choosing, labels, results
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies

HERE = Path(__file__).parent
RUNS = Path("runs/beyond_98_47")
COMMANDS = {
    "search": ("experiments/beyond_98_47/search.py", 1000),
    "refine": ("experiments/beyond_98_47/refine.py", 1100),
    "finalists": ("experiments/beyond_98_47/finalists.py", 1200),
    "final": ("configs/beyond_98_47.py", 2000),
    "walk": ("experiments/beyond_98_47/walk.py", 2000),
    "cnn_search": ("experiments/beyond_98_47/cnn_search.py", 3000),
    "cnn_finalists": ("experiments/beyond_98_47/cnn_finalists.py", 3100),
    "cnn_final": ("configs/beyond_99_19.py", 4000),
}
TEST_IMAGES = stats.Scale(step=1 / 10_000, low=0.0, high=1.0)
SEARCHED = (
    *("batch_size", "learning_rate", "schedule", "momentum"),
    *("l2", "l2_on_output", "label_smoothing"),
)
STEPS = (
    "the notebook's recipe, L2 2.5e-4",
    "learning rate falls linearly to 0",
    "64 images a step, not 128",
    "learning rate 0.8, not 0.1",
    "momentum 0.9, learning rate 0.08",
    "L2 1e-4, not 2.5e-4",
    "L2 of the output kernel too",
    "label smoothing 0.2",
)


def ranking(run: Run, most: int) -> str:
    """Lists the best points of a search, by their accuracy on validation images."""
    rows = []
    for point in choosing.ranked(run.summary["grid"], results.protocol(run).criterion)[:most]:
        found = point["statistics"]["validation_accuracy"]
        accuracy = percent(found["mean"])
        if found["n"] > 1:
            accuracy += f" ± {percent(found['std_ddof1'])}"
        rows.append([labels.shown(point[axis]) for axis in SEARCHED] + [str(found["n"]), accuracy])
    names = [axis.replace("_", " ") for axis in SEARCHED]
    return markdown_table([*names, "seeds", "validation accuracy, %: mean ± sd"], rows)


def outcome(run: Run) -> str:
    """Says what the chosen recipe reaches on the test set."""
    found = run.summary["grid"][0]["statistics"]["test_accuracy"]
    cells = [
        *(str(found["n"]), percent(found["mean"]), interval(found["interval_95"])),
        *(percent(found["std_ddof1"]), interval((found["min"], found["max"]))),
    ]
    header = ["seeds", "mean, %", "95 % interval of the mean", "sd (ddof=1)", "range"]
    return markdown_table(header, [cells])


def steps(walk: Run, final: Run) -> list[dict[int, float]]:
    """Returns the last epoch's test accuracy by seed, for each step of the walk."""
    points: list[Row] = walk.summary["grid"]
    accuracies = [results.by_seed(walk, point, "test_accuracy") for point in points]
    last = results.by_seed(final, final.summary["grid"][0], "test_accuracy")
    return [*accuracies, {seed: last[seed] for seed in accuracies[0]}]


def walk_table(accuracies: list[dict[int, float]]) -> str:
    """Compares each step with the one before, seed by seed."""
    pairs = list(zip(accuracies[1:], accuracies, strict=False))
    gains = [stats.compare(now, before, TEST_IMAGES) for now, before in pairs]
    adjusted = stats.holm([gain.p for gain in gains])
    rows = []
    for i, (change, values) in enumerate(zip(STEPS, accuracies, strict=True)):
        found = stats.describe(list(values.values()), TEST_IMAGES)
        low, high = found["interval_95"]
        cells = [change, f"{percent(found['mean'])} ± {percent((high - low) / 2)}", "", ""]
        if i:
            gain = gains[i - 1]
            cells[2] = f"{signed(gain.difference)} ({interval((gain.low, gain.high), signed)})"
            cells[3] = f"{adjusted[i - 1]:.1g}"
        rows.append(cells)
    header = ["change", "test accuracy, %: mean ± 95 %", "gain, points (95 % interval)", "p (Holm)"]
    return markdown_table(header, rows)


def draw_walk(accuracies: list[dict[int, float]]) -> Figure:
    """Draws the mean and the trials of each step, and what it gains, with 95 % intervals."""
    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for place, values in enumerate(accuracies):
        found = stats.describe(list(values.values()), TEST_IMAGES)
        low, high = found["interval_95"]
        left.plot([100 * v for v in values.values()], [place + 0.22] * len(values), ".",
                  color=canvas.COLORS[5], ms=5, alpha=0.6)  # fmt: skip
        draw_interval(left, place, found["mean"], low, high, "{:.2f}")
        if place:
            gain = stats.compare(values, accuracies[place - 1], TEST_IMAGES)
            draw_interval(right, place, gain.difference, gain.low, gain.high, "{:+.2f}")
    for ax, x in ((left, 98.47), (right, 0)):
        ax.axvline(x, color="#666666", lw=1, ls="--")
        ax.grid(axis="y", visible=False)
    left.annotate("published\n98.47 ", (98.47, -0.5), ha="right", va="top", fontsize=8,
                  color="#444444")  # fmt: skip
    left.set(ylim=(len(accuracies) - 0.5, -0.7), xlabel="last-epoch test accuracy (%)")
    left.set_yticks(range(len(accuracies)), [f"{'+ ' * bool(i)}{s}" for i, s in enumerate(STEPS)])
    right.set(xlabel="gain over the line above (points)")
    n = len(accuracies[0])
    figure.suptitle(
        f"mnist, 784-500-300-10, 40 epochs: one change at a time (means of {n} seeds, 95 % "
        "intervals; dots: single trials)"
    )
    return figure


def draw_interval(ax, place: int, mean: float, low: float, high: float, style: str) -> None:
    """Draws a mean with its interval, both shares of 1, and writes its percentage over it."""
    ends = [[100 * (mean - low)], [100 * (high - mean)]]
    ax.errorbar(100 * mean, place, xerr=ends, fmt="o", color=canvas.COLORS[0], ms=5, capsize=3)
    ax.annotate(style.format(100 * mean), (100 * mean, place - 0.2), ha="center", va="bottom",
                fontsize=8)  # fmt: skip


def main() -> None:
    """Runs the study and writes its tables and its figure."""
    runs = {
        name: studies.run_once(RUNS / name, f"--config={config}", f"--seed={seed}", *sys.argv[1:])
        for name, (config, seed) in COMMANDS.items()
    }
    accuracies = steps(runs["walk"], runs["final"])
    studies.save_figure(HERE / "walk.png", draw_walk, accuracies)
    sections = {
        "search": ranking(runs["search"], 8),
        "refine": ranking(runs["refine"], 12),
        "finalists": ranking(runs["finalists"], 4),
        "outcome": outcome(runs["final"]),
        "walk": f"{walk_table(accuracies)}\n\n![One change at a time](walk.png)",
        "cnn_search": ranking(runs["cnn_search"], 6),
        "cnn_finalists": ranking(runs["cnn_finalists"], 4),
        "cnn_outcome": outcome(runs["cnn_final"]),
        "record": studies.describe_runs(list(runs.values())),
    }
    studies.fill_in(HERE / "README.md", sections)
    for name in runs:
        studies.keep_files(RUNS / name, HERE / name)


if __name__ == "__main__":
    main()
