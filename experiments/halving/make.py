"""Searches with halving and without it, what halving saves, and what further searches find.

    python experiments/halving/make.py [--data_dir=DIR]

Trains or resumes what is not finished in runs/halving (a day on two CPU cores), then writes the
tables of README.md between its markers, the figures, and the small files of each run.
"""

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from mnist_jax import stats
from mnist_jax.config.rungs import num_kept, rungs
from mnist_jax.report.figures import canvas
from mnist_jax.report.formatting import interval, percent, signed
from mnist_jax.report.render import markdown_table
from mnist_jax.runs import results
from mnist_jax.runs.choosing import trained_epochs
from mnist_jax.runs.results import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies
import walks

HERE = Path(__file__).parent
RUNS = Path("runs/halving")
SEARCH = "experiments/halving/search.py"
DESIGNS = (0, 1, 2)
Search = tuple[str, int, Sequence[str]]
"""A config, a seed, and further words of the command."""
FURTHER: dict[str, Search] = {
    name: (f"{name}.py", seed, ())
    for name, seed in {
        **{"mlp_sgd": 6000, "mlp_adamw": 6100, "mlp_muon": 6200},
        **{"cnn_sgd": 7000, "cnn_adamw": 7100, "cnn_muon": 7200},
        **{"norm_sgd": 7300, "norm_adamw": 7400},
        **{"shift_sgd": 7500, "shift_norm": 7600},
        "mlp_refine": 6300,
    }.items()
}
ON_SHIFTED = (
    "--config.augmentation=shift",
    "--config.num_epochs=81",
    "--config.min_epochs=9",
    "--config.num_points=36",
)
LONGER: dict[str, Search] = {
    "mlp_longer": ("mlp_longer.py", 9000, ()),
    "mlp_smaller_batch": ("mlp_smaller_batch.py", 9500, ()),
    "cnn_drop_muon": ("cnn_dropout.py:muon", 9100, ()),
    "cnn_drop_adamw": ("cnn_dropout.py:adamw", 9200, ()),
    "shift_drop_muon": ("cnn_dropout.py:muon", 9300, ON_SHIFTED),
    "shift_drop_adamw": ("cnn_dropout.py:adamw", 9400, ON_SHIFTED),
}
"""Searches that came after the first winners."""
FINALISTS = ("cnn_finalists", "shift_finalists")
LATER_FINALISTS = ("cnn_drop_finalists", "shift_drop_finalists")
WINNERS = {
    "mlp_final": "784-500-300-10, 54 epochs",
    "mlp_longer_final": "784-500-300-10, 81 epochs",
    "mlp_smaller_batch_final": "784-500-300-10, 54 epochs, batches of 32",
    "cnn_final": "CNN",
    "cnn_drop_final": "CNN with dropout",
    "shift_final": "CNN, shifted images",
    "shift_drop_final": "CNN with dropout, shifted images",
}
"""What was chosen for a network, trained with fresh seeds."""
WALKS: dict[str, tuple[str, dict[str, str]]] = {
    "mlp_walk": (
        "mnist, 784-500-300-10, from SGD to AdamW",
        {
            "mlp_step_1": "beyond_98_47.py: SGD, L2",
            "mlp_step_2": "AdamW, no decay or L2",
            "mlp_step_3": "weight decay 0.237",
            "mlp_final": "smoothing 0.055, averaging, 54 epochs",
        },
    ),
    "cnn_walk": (
        "mnist, CNN, from SGD to shifted images",
        {
            "cnn_step_1": "beyond_99_19.py: SGD, L2, 15 epochs",
            "cnn_step_2": "27 epochs",
            "cnn_step_3": "standard scaling, averaging",
            "cnn_step_4": "Muon, decay 0.0482, smoothing 0.058",
            "cnn_step_5": "54 epochs, other numbers",
            "cnn_drop_final": "dropout",
            "cnn_step_6": "shifted images",
            "shift_drop_final": "81 epochs",
        },
    ),
}
"""A title, and runs with how each differs from the one before."""
PAIRS = (
    ("784-500-300-10: mlp_adamw.py less beyond_98_47.py", "mlp_final", "mlp_step_1"),
    ("784-500-300-10: 81 epochs less 54", "mlp_longer_final", "mlp_final"),
    ("784-500-300-10: batches of 32 less 64", "mlp_smaller_batch_final", "mlp_final"),
    ("CNN: dropout's recipe less Muon's of 27 epochs", "cnn_drop_final", "cnn_step_4"),
    ("CNN, shifted: with dropout and Muon less AdamW", "shift_drop_final", "shift_final"),
    ("CNN: Muon's recipe less the step before it", "cnn_final", "cnn_cpu_3"),
    ("CNN: beyond_99_19.py", "cnn_step_1", "cnn_cpu_1"),
    ("CNN: the same, 27 epochs", "cnn_step_2", "cnn_cpu_2"),
    ("CNN: with scaling and averaging", "cnn_step_3", "cnn_cpu_3"),
    ("CNN: Muon's recipe", "cnn_step_4", "cnn_final"),
    ("CNN: Muon's of 54 epochs, without dropout", "cnn_step_5", "cnn_cpu_5"),
)
"""Further comparisons: what they are of, and two runs."""
RECIPE = ("optimizer", "batch_size", "scaling", "learning_rate", "schedule", "l2", "weight_decay",
          "label_smoothing", "ema_decay")  # fmt: skip
WITH_DROPOUT = (*RECIPE, "flat_dropout", "hidden_dropout")
CURVES = "curves.csv"
"""Of a search that stops nothing: a row a point, its validation accuracy after each epoch."""


class Choice(NamedTuple):
    """What a way to search chooses, and what it trains for that."""

    point: int
    accuracy: float  # of the chosen point, on validation images, after the last epoch
    epochs: int  # of all points together


def searches() -> dict[str, Run]:
    """Returns the searches, trained where they are not finished."""
    runs = {}
    for design in DESIGNS:
        words = (
            f"--config={SEARCH}",
            f"--config.design_seed={design}",
            f"--seed={5000 + 100 * design}",
        )
        for name, more in ((f"full_{design}", ()), (f"halved_{design}", ("--config.halving=3",))):
            runs[name] = studies.run_once(RUNS / name, *words, *more, *sys.argv[1:])
        file = RUNS / f"full_{design}" / CURVES
        if not file.exists():
            write_curves(runs[f"full_{design}"], file)
    return runs


def further() -> dict[str, Run]:
    """Returns the searches for new recipes, and what came of them."""
    return {
        name: studies.run_once(
            RUNS / name,
            f"--config=experiments/halving/{config}",
            f"--seed={seed}",
            *more,
            *sys.argv[1:],
        )
        for name, (config, seed, more) in (FURTHER | LONGER).items()
    }


def trained() -> dict[str, Run]:
    """Returns the runs of `winners.py`."""
    walked = [name for _, words in WALKS.values() for name in words]
    compared = [name for _, *names in PAIRS for name in names]
    names = dict.fromkeys((*FINALISTS, *LATER_FINALISTS, *WINNERS, *walked, *compared))
    if not all(results.is_finished(RUNS / name) for name in names):
        studies.run_script(HERE / "winners.py")
    return {name: results.read_run(RUNS / name) for name in names}


def write_curves(run: Run, file: Path) -> None:
    """Writes the validation accuracies of a run that has one seed."""
    rows = map(json.loads, run.lines())
    found = {(row["trial"], row["epoch"]): row["validation_accuracy"] for row in rows}
    trials, epochs = (sorted({key[i] for key in found}) for i in range(2))
    with open(file, "w", newline="", encoding="utf-8") as output:
        csv.writer(output, lineterminator="\n").writerows(
            # 0 where a trial has diverged: it ranks last
            [[found[trial, epoch] or 0.0 for epoch in epochs] for trial in trials]
        )


def read_curves(folder: Path) -> np.ndarray:
    """Returns the validation accuracies of a search: [points, epochs]."""
    return np.loadtxt(folder / CURVES, delimiter=",")


def replay(curves: np.ndarray, halving: int, min_epochs: int = 1) -> Choice:
    """Returns what halving would choose of a search whose curves are known: [points, epochs]."""
    num_points, num_epochs = curves.shape
    there, epochs, start = np.arange(num_points), 0, 0
    for rung in (*rungs(num_epochs, halving, min_epochs, num_points), num_epochs):
        epochs, start = epochs + len(there) * (rung - start), rung
        order = np.argsort(-curves[there, rung - 1], kind="stable")
        kept = num_kept(len(there), halving) if halving and rung < num_epochs else len(there)
        there = np.sort(there[order[:kept]])
    point = int(there[np.argmax(curves[there, -1])])
    return Choice(point, float(curves[point, -1]), epochs)


def by_machine(runs: dict[str, Run]) -> list[list[Run]]:
    """Returns the runs of each machine."""
    found: dict[str, list[Run]] = {}
    for run in runs.values():
        found.setdefault(run.summary["provenance"]["machine"], []).append(run)
    return list(found.values())


def accuracy_of_chosen(run: Run, images: str) -> float:
    """Returns the accuracy of the chosen point after the last epoch, on test or other images."""
    point = run.summary["grid"][run.summary["chosen_point"]]
    return point["statistics"][f"{images}_accuracy"]["mean"]


def choice_of(run: Run) -> Choice:
    """Returns what a search has chosen."""
    accuracy = accuracy_of_chosen(run, "validation")
    return Choice(run.summary["chosen_point"], accuracy, sum(map(trained_epochs, run.results)))


def times_of(noted: dict, *names: str) -> list[str]:
    """Returns the cells of two runs: the CPU seconds of each, and their ratio."""
    first, second = (noted["cpu_seconds"].get(name) for name in names)
    if not (first and second):
        return ["—"] * 3
    return [f"{first:,.0f}", f"{second:,.0f}", f"{second / first:.3f}"]


def outcome(runs: dict[str, Run], noted: dict) -> str:
    """Compares the searches of each design, and says how much they differ in the mean."""
    rows, differences = [], []
    for design in DESIGNS:
        names = f"full_{design}", f"halved_{design}"
        first, second = (choice_of(runs[name]) for name in names)
        differences.append(second.accuracy - first.accuracy)
        rows.append(
            [
                str(design),
                *(str(each.epochs) for each in (first, second)),
                f"{second.epochs / first.epochs:.3f}",
                *times_of(noted, *names),
                *(percent(each.accuracy) for each in (first, second)),
                signed(differences[-1]),
            ]
        )
    header = ["design", "epochs, full", "halved", "ratio", "CPU seconds, full", "halved", "ratio",
              "validation accuracy, full, %", "halved, %", "difference, points"]  # fmt: skip
    found = stats.describe(differences, stats.Scale(step=1 / 10_000))
    there = interval(found["interval_95"], signed)
    full, halved = (
        ", ".join(percent(accuracy_of_chosen(runs[f"{kind}_{x}"], "test")) for x in DESIGNS)
        for kind in ("full", "halved")
    )
    said = (
        f"Mean difference {signed(found['mean'])} points (95 % interval over the"
        f" {len(DESIGNS)} designs {there}). On the test set what the full searches chose has {full}"
        f" %, and what the halved ones chose {halved} %, one seed each."
    )
    return f"{markdown_table(header, rows)}\n\n{said}"


def found_by(runs: dict[str, Run], names: Iterable[str], axes: Sequence[str]) -> str:
    """Shows what each of some searches trained, and its best point."""
    rows = []
    for name in names:
        run = runs[name]
        grid, chosen = run.summary["grid"], choice_of(run)
        point = grid[chosen.point]
        cells = walks.show_recipe(point, axes)
        size = f"{len(grid)} of {point['num_epochs']}"
        rows.append([f"`{name}`", size, str(chosen.epochs), percent(chosen.accuracy), *cells])
    words = [axis.replace("_", " ") for axis in axes]
    header = ["search", "points of epochs", "epochs trained", "validation accuracy, %", *words]
    return markdown_table(header, rows)


def tabulate_winners(runs: dict[str, Run]) -> str:
    """Shows the test accuracies of the winners."""
    rows = [
        [network, machine_of(runs[name]), *walks.describe(runs[name])]
        for name, network in WINNERS.items()
    ]
    return markdown_table(["network", "trained on", *walks.DESCRIBED], rows)


def machine_of(run: Run) -> str:
    """Returns the kind of device that trained a run, and the precision of its matrix products."""
    devices = run.summary["provenance"]["devices"]
    return f"{devices['platform'].upper()}, {devices['matmul_precision']}"


def tabulate_pairs(runs: dict[str, Run]) -> str:
    """Shows differences in test accuracy between runs, with the seeds that both have."""
    pairs = [walks.steps(runs[run], runs[other]) for _, run, other in PAIRS]
    found = [stats.compare(mine, theirs, walks.TEST_IMAGES) for mine, theirs in pairs]
    adjusted = stats.holm([each.p for each in found])
    rows = []
    for (words, *names), each, p in zip(PAIRS, found, adjusted, strict=True):
        machines = " less ".join(dict.fromkeys(machine_of(runs[name]) for name in names))
        rows.append([words, machines, str(each.n), walks.show_gain(each), f"{p:.1g}"])
    header = ["one less the other", "trained on", "seeds", "difference, points (95 % interval)",
              "p (Holm)"]  # fmt: skip
    return markdown_table(header, rows)


WAYS = tuple(itertools.product((2, 3, 4, 6), (1, 2, 4)))
"""Values of `halving` and `min_epochs`."""


class Way(NamedTuple):
    """A way to halve, and what it would have done in the searches that stop nothing."""

    halving: int
    rungs: tuple[int, ...]
    share: float  # of the epochs that full searches train
    lost: list[float]  # accuracy of what is chosen, less that of the full search, a search each


def replay_ways(curves: Sequence[np.ndarray]) -> list[Way]:
    """Returns the ways that have different rungs."""
    num_points, num_epochs = curves[0].shape
    full = [replay(each, 0) for each in curves]
    found: dict[tuple, Way] = {}
    for halving, min_epochs in WAYS:
        after = tuple(rungs(num_epochs, halving, min_epochs, num_points))
        if not after or (halving, after) in found:
            continue
        halved = [replay(each, halving, min_epochs) for each in curves]
        share = sum(each.epochs for each in halved) / sum(each.epochs for each in full)
        lost = [now.accuracy - was.accuracy for now, was in zip(halved, full, strict=True)]
        found[halving, after] = Way(halving, after, share, lost)
    return list(found.values())


def tabulate_ways(ways: Sequence[Way]) -> str:
    """Says what other ways to halve would have chosen, of the same points."""
    rows = []
    for way in ways:
        cells = [str(way.halving), ", ".join(map(str, way.rungs)), f"{way.share:.3f}"]
        rows.append([*cells, *map(signed, (*way.lost, float(np.mean(way.lost))))])
    columns = [f"design {design}, points" for design in DESIGNS]
    return markdown_table(["halving", "rungs", "share of the epochs", *columns, "mean"], rows)


def draw_ways(ways: Sequence[Way], shape: tuple[int, int]) -> Figure:
    """Draws what each way loses against its share; `shape` is of points and epochs."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    ax = figure.subplots()
    colors: dict[int, str] = {}
    higher = itertools.cycle((2, 26))  # points, so that words do not meet
    for way in sorted(ways, key=lambda way: way.share):
        lost = [100 * each for each in way.lost]
        color = colors.setdefault(way.halving, canvas.COLORS[len(colors)])
        beside = way.share + 0.004 * (np.arange(len(lost)) - (len(lost) - 1) / 2)
        ax.plot(way.share, np.mean(lost), "_", color=color, ms=16, mew=1.5)
        ax.plot(beside, lost, "o", color=color, ms=4)
        words = f"1/{way.halving} after\n{', '.join(map(str, way.rungs))}"
        ax.annotate(words, (way.share, 0.002), xytext=(0, next(higher)), ha="center", va="bottom",
                    textcoords="offset points", fontsize=7.5, color=color)  # fmt: skip
    ax.axhline(0, color="#666666", lw=1, ls="--")
    ax.axhline(-0.05, color="#666666", lw=1, ls=":")
    ax.set(
        ylim=(None, 0.025),
        xlabel="share of the epochs that a full search trains",
        ylabel="validation accuracy of what is chosen,\nless that of the full search (points)",
    )
    num_points, num_epochs = shape
    figure.suptitle(
        f"mnist, 784-500-300-10: {len(ways[0].lost)} searches of {num_points} points for"
        f" {num_epochs} epochs,\nhalved in several ways (dots: searches; bars: means; dotted: 0.05"
        " points)"
    )
    return figure


def main() -> None:
    """Runs the study and writes its tables and its figures."""
    runs = searches() | further() | trained()
    curves = [read_curves(RUNS / f"full_{design}") for design in DESIGNS]
    ways = replay_ways(curves)
    studies.save_figure(HERE / "ways.png", draw_ways, ways, curves[0].shape)
    sections = {
        "outcome": outcome(runs, studies.read_record(HERE / "noted.json")),
        "ways": f"{tabulate_ways(ways)}\n\n![Ways to halve](ways.png)",
        "further": found_by(runs, FURTHER, RECIPE),
        "refine": walks.rank(runs["mlp_refine"], RECIPE, 5),
        **{name: walks.rank(runs[name], RECIPE, 5) for name in FINALISTS},
        "longer": found_by(runs, LONGER, WITH_DROPOUT),
        **{name: walks.rank(runs[name], WITH_DROPOUT, 6) for name in LATER_FINALISTS},
        "winners": tabulate_winners(runs),
        **{
            name: walks.show(
                HERE / f"{name}.png", title, list(words.values()), [runs[each] for each in words]
            )
            for name, (title, words) in WALKS.items()
        },
        "pairs": tabulate_pairs(runs),
        "record": "\n\n".join(map(studies.describe_runs, by_machine(runs))),
    }
    studies.fill_in(HERE / "README.md", sections)
    for name in runs:
        studies.keep_small(RUNS / name, HERE / name)
    for design in DESIGNS:
        studies.keep_files(RUNS / f"full_{design}", HERE / f"full_{design}", [CURVES])


if __name__ == "__main__":
    main()
