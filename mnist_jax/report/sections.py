"""The sections of the report of one run: what they say, in words and tables."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from mnist_jax.report import importance, tables
from mnist_jax.report.data_words import data_words
from mnist_jax.report.halving import rungs_of
from mnist_jax.report.points import MAX_POINTS, BestPoint, compared, criterion_words
from mnist_jax.report.render import Code, Picture, Section, Warn
from mnist_jax.report.standing import compared_words, standing
from mnist_jax.report.tables import Table
from mnist_jax.report.verdict import chosen_trial, write_verdict
from mnist_jax.runs import shards
from mnist_jax.runs.choosing import epochs_left, is_finite, trained_epochs
from mnist_jax.runs.labels import count, label, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line


def name_of(run: Run) -> str:
    """Names the experiment and the data set, and the shard if it is not the whole run."""
    number, num_shards = shards.shard_of(run.config)
    shard = f", shard {number} of {num_shards}" if num_shards > 1 else ""
    return f"{one_line(run.config['name'])} on {run.summary['dataset']}{shard}"


def title_of(run: Run) -> str:
    """Returns the title of a page: what `name_of` does, and whether the run is not finished."""
    return name_of(run) + " (not finished)" * bool(run.progress)


def headline(run: Run) -> str:
    """Names the experiment, the data set, how much was run, and the protocol."""
    epochs = sorted({point["num_epochs"] for point in run.summary["grid"]})
    num_points, num_trials = len(run.summary["grid"]), len(run.results)
    if run.progress:
        if not run.config["halving"]:  # else some of these are where points stopped
            epochs = sorted({*run.progress.epochs.values()})
        num_points, num_trials = run.progress.num_points, len(run.progress.epochs)
    sizes = [count(num_points, "grid point"), count(num_trials, "trial")]
    sizes.append(f"{epochs[0]} to " * (len(epochs) > 1) + count(epochs[-1], "epoch"))
    sizes[-1] += f" (halving={run.config['halving']})" * bool(run.config["halving"])
    return f"{name_of(run)}: {', '.join(sizes)}; {protocol(run).words}"


def make_sections(run: Run, best: BestPoint, pictures: Sequence[Picture | str]) -> list[Section]:
    """Returns what report.md and report.html say of a run."""
    provenance = dict(run.summary["provenance"])
    taken = {key: provenance.pop(key, []) for key in ("seconds", "seconds_by_process")}
    cautions = map(Warn, shards.cautions(run))
    so_far = " so far" * bool(run.progress)
    top: list[Section] = [("How far it is", [Warn(standing(run))])] if run.progress else []
    commands = _commands(run, provenance)
    return [
        *top,
        ("What was run", [f"{headline(run)}.", data_words(run), *commands]),
        (f"Verdict{so_far}", [*cautions, write_verdict(run, best), chosen_trial(run)]),
        (f"Results{so_far}", _results(run)),
        *_metrics(run),
        *_comparisons(run, best),
        *_axes(run),
        ("Figures", [*filter(None, [compared_words(run)]), *pictures]),
        ("Timing", _timing(run, **taken)),
        ("Provenance", [tables.key_values(provenance)]),
        ("Config", [tables.key_values(run.config)]),
    ]


def _commands(run: Run, provenance: Row) -> list[str]:
    """Returns what repeats a run, or goes on with it; removes the commands from its record."""
    if run.progress:
        return ["If it is stopped, this goes on with it:", Code(provenance.pop("command"))]
    command = Code(repeatable(provenance.pop("command")))
    if not (what := next((x for x in ("shards", "pooled") if x in provenance), "")):
        return ["To repeat it:", command]
    records = provenance[what] = {k: dict(x) for k, x in provenance[what].items()}
    verb, parts = ("merge", "shards") if what == "shards" else ("pool", "runs")
    return [
        f"To repeat its {len(records)} {parts}:",
        *(Code(repeatable(record.pop("command"))) for record in records.values()),
        f"To {verb} them, with the directories that they print:",
        command,
    ]


def repeatable(command: str) -> str:
    """Drops `--overwrite` and `--workdir` from a command, so that it overwrites nothing."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    dropped = re.compile("--?((no)?overwrite(=.*)?|workdir(=.*)?)", re.DOTALL)
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not dropped.fullmatch(word) and before not in ("-workdir", "--workdir")
    ]
    return shlex.join(kept)


def _results(run: Run) -> list[str | Table]:
    p, num_points = protocol(run), len(run.summary["grid"])
    meaning = (
        f"{p.note} Statistics are over the n trials of a grid point that did not diverge, that is,"
        " whose numbers stayed finite: a network that predicts one class for all images counts. sd"
        " is the standard deviation of the sample (ddof=1). The interval is that of the mean"
        f" (Student) over seeds, on these {tables.scored_words(run)} images: it says nothing of"
        " other images. It ends at 0 and 100 %, and the scatter is never taken to be smaller than"
        " rounding to whole images makes it."
    )
    if num_points > 1:
        order = f"from best to worst by mean {criterion_words(p)}" if p.criterion else "in order"
        meaning += f" Grid points are listed {order}."
    if num_points > MAX_POINTS:
        meaning += f" Of {num_points} the first {MAX_POINTS} are here"
        meaning += (
            "." if run.progress else "; all are in summary.json, and every trial in results.csv."
        )
    if any(map(epochs_left, run.summary["grid"])):
        meaning += " Points that have more epochs left come after the others."
    if rungs_of(run):
        meaning += (
            " The numbers of points that halving stopped are those after the epochs that they were"
            " trained, and are not to be compared with those of points that were trained for more:"
            " what they would have reached is not known. Their test images were not scored."
        )
    last = (
        f"Means after the {'latest' if run.progress else 'last'} epoch"
        f"{' that a point was trained' * bool(rungs_of(run))}. The loss is cross-entropy"
        " in nats an image, with labels that are not smoothed; the objective adds the L2 penalty to"
        " it, and is what training minimises where label smoothing is 0. Training accuracy and loss"
        " are running means over the epoch."
    )
    return [tables.results_table(run), meaning, tables.last_epoch_table(run), last]


def _metrics(run: Run) -> list[Section]:
    if not run.config["metrics"]:
        return []
    return [("Metrics", [tables.metrics_table(run), tables.metrics_words(run)])]


def _comparisons(run: Run, best: BestPoint) -> list[Section]:
    if not any(is_finite(test["p"]) for _, test in best.others):
        return []
    p, grid = protocol(run), compared(run).summary["grid"]
    meaning = (
        f"The differences are {label(best.point, varying(grid))} minus the point of the row, in"
        f" {p.measure} ({p.words}). Intervals are Student's and uncorrected; Holm's correction is"
        f" for every pair of the {len(grid)} points."
    )
    return [("Comparisons", [tables.comparison_table(compared(run), best.others), meaning])]


def _axes(run: Run) -> list[Section]:
    blocks = importance.make_blocks(run)
    return [("Which axes matter", blocks)] if blocks else []


def _timing(run: Run, seconds: Row, seconds_by_process: Sequence[Row]) -> list[str | Table]:
    clock = (
        "Wall-clock time; training includes scoring the held-out images after each epoch. Of a run"
        " that was interrupted, it is that of all its processes, as far as they noted it."
    )
    for what in {"shards", "pooled"} & run.summary["provenance"].keys():
        clock += f" Added up over the {'shards' if what == 'shards' else 'runs'}."
    epochs = run.progress.done.values() if run.progress else map(trained_epochs, run.results)
    each = seconds["train"] / sum(epochs)
    rows = [[phase, f"{value:.2f}"] for phase, value in seconds.items()]
    rows.append(["train, by trial and epoch", f"{each:.4f}"])
    blocks: list[Any] = [clock, Table(tables.ungrouped(["phase", "seconds"]), rows)]
    if seconds_by_process:
        rows = [
            [str(i), *(f"{taken.get(phase, 0):.2f}" for phase in seconds)]
            for i, taken in enumerate(seconds_by_process, start=1)
        ]
        blocks.append(Table(tables.ungrouped(["process", *seconds]), rows))
    return blocks
