"""The tables of runs, before `render.py` or `terminal.py` lays them out."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mnist_jax.config.columns import METRICS, at_best, metric_name, split_column
from mnist_jax.report import formatting
from mnist_jax.report.formatting import interval, number, percent
from mnist_jax.report.pairs import Pair
from mnist_jax.report.points import MAX_POINTS, NamedPoint, criterion_words, shown_points
from mnist_jax.runs import records
from mnist_jax.runs.choosing import count_diverged, epochs_done, epochs_left, is_finite
from mnist_jax.runs.labels import Axis, count, num_digits, shown, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line


class Table(NamedTuple):
    """Rows of cells; columns are (group, name), and equal groups stand next to each other."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]

    def select(self, indices: Sequence[int]) -> "Table":
        """Returns some of the columns."""
        rows = [[row[i] for i in indices] for row in self.rows]
        return Table([self.columns[i] for i in indices], rows)


# A column of a table: its group and name, the column of results.csv, a statistic, how it is shown.
Column = tuple[str, str, str, str, Callable[[Any], str]]


def results_table(run: Run, brief: bool = False) -> Table:
    """Returns a row per grid point: accuracies in percent; `brief` has fewer columns."""
    p = protocol(run)
    group = "accuracy %" if brief else f"{p.measure} %"
    columns: list[Column] = [
        (group, scored_words(run) if brief else "mean", p.column, "mean", percent),
        (group, "95 % interval", p.column, "interval_95", interval),
        (group, "sd", p.column, "std_ddof1", percent),
    ]
    if not brief:
        columns += [(group, extreme, p.column, extreme, percent) for extreme in ("min", "max")]
    if p.criterion and p.criterion != p.column:
        group, name = (group, "validation") if brief else (f"{criterion_words(p)} %", "mean")
        columns.insert(0, (group, name, p.criterion, "mean", percent))
        if not brief:
            columns.insert(1, (group, "95 % interval", p.criterion, "interval_95", interval))
    return _points_table(run, columns)


def last_epoch_table(run: Run) -> Table:
    """Returns what was measured after the last epoch: accuracies in percent, losses in nats."""
    split, words = scored_split(run), scored_words(run)
    columns: list[Column] = [
        ("accuracy %", words, f"{split}_accuracy", "mean", percent),
        ("accuracy %", "training", "train_accuracy", "mean", percent),
        ("loss", words, f"{split}_loss", "mean", number),
        ("loss", "training", "train_loss", "mean", number),
        ("objective", words, f"{split}_objective", "mean", number),
    ]
    if split == "train":  # of which no objective is recorded
        columns = columns[1::2]
    return _points_table(run, columns)


def scored_split(run: Run) -> str:
    """Returns the split whose accuracy counts: `test`, or before the end what is in its place."""
    return split_column(protocol(run).column)[0]


def scored_words(run: Run) -> str:
    """Returns `scored_split` as a word before `images`."""
    return {"train": "training"}.get(scored_split(run), scored_split(run))


def metrics_table(run: Run) -> Table:
    """Returns what else was measured of the images that count, at the epoch that does."""
    columns: list[Column] = []
    for name, column in _metrics(run):
        known = METRICS.get(name)
        show = formatting.measure if known is None else percent if known.counts else number
        group = name + " %" * (show is percent)
        columns.append((group, "mean", column, "mean", show))
        ends = partial(interval, show=show)
        columns.append((group, "95 % interval", column, "interval_95", ends))
    return _points_table(run, columns)


def metrics_words(run: Run) -> str:
    """Says what the metrics are, and where they are missing."""
    when = "latest" if run.progress else protocol(run).measure.partition(" ")[0]
    num_sound = _num_scored(run)
    sentences = [
        f"{formatting.sentence(when)} values of the {scored_words(run)} images; means over"
    ]
    sentences[0] += " the n trials."
    missing = []
    for spec, (name, column) in zip(run.config["metrics"], _metrics(run), strict=True):
        what = METRICS[name].words if name in METRICS else f"as {one_line(spec)} computes it"
        sentences.append(f"{name}: {what}.")
        if sum(point["statistics"][column]["n"] for point in run.summary["grid"]) < num_sound:
            missing.append(name)
    if missing:
        names = formatting.listed(missing)
        sentences.append(f"Trials without a finite number are left out of: {names}.")
    return " ".join(sentences)


def lost_metrics(run: Run) -> list[str]:
    """Says which metrics have no finite number in any trial, in a line if there are some."""
    grid, num_sound = run.summary["grid"], _num_scored(run)
    lost = [
        name
        for name, column in _metrics(run)
        if num_sound and not any(point["statistics"][column]["n"] for point in grid)
    ]
    return [f"WARNING: no trial has a finite {' or '.join(lost)}."] if lost else []


def _num_scored(run: Run) -> int:
    """Counts the trials that have a number of each metric, unless it is not finite.

    Of those that halving stopped, test images are not scored.
    """
    scored = run.results
    if scored_split(run) == "test":
        scored = [row for row in scored if not row.get("stopped_epoch")]
    return len(scored) - count_diverged(scored)


def _metrics(run: Run) -> list[tuple[str, str]]:
    """Returns each metric's name, and the column that counts."""
    p, names = protocol(run), map(metric_name, run.config["metrics"])
    if run.progress:
        return [(name, f"{scored_split(run)}_{name}") for name in names]
    return [
        (name, at_best(p.held_out, name) if p.choose_epoch else f"test_{name}") for name in names
    ]


def _points_table(run: Run, columns: Sequence[Column]) -> Table:
    axes, rows = varying(run.summary["grid"]), []
    shown_epochs = ["epochs"] * any(map(epochs_left, run.summary["grid"]))
    for point in shown_points(run):
        statistics = point["statistics"]
        cells = [show(statistics[column][name]) for _, _, column, name, show in columns]
        if shown_epochs:
            cells.insert(0, f"{epochs_done(point)} of {point['num_epochs']}")
        rows.append([*_values(point, axes), _num_sound(point), *cells])
    names = ungrouped([*axes, "n", *shown_epochs])
    return Table([*names, *(column[:2] for column in columns)], rows)


def ungrouped(names: Iterable[str]) -> list[tuple[str, str]]:
    """Returns columns without a group."""
    return [("", str(name)) for name in names]


def _values(point: Row, axes: Sequence[Axis]) -> list[str]:
    return [shown(point[axis], axis.digits) for axis in axes]


def _num_sound(point: Row) -> str:
    """Counts the trials of a grid point that did not diverge."""
    n, lost = point["num_trials"], len(point["diverged_seeds"])
    return f"{n - lost} of {n}" if lost else str(n)


_COMPARISON_COLUMNS = (
    ("difference in percentage points", "mean"),
    ("difference in percentage points", "95 % interval"),
    *ungrouped(["p", "p (Holm)", "test"]),
)


def _comparison_cells(test: Row) -> list[str]:
    """Shows a comparison, as `compare_points` returns it, in `_COMPARISON_COLUMNS`."""
    n, signed, p_value = test["n"], formatting.signed, formatting.p_value
    kind = f"paired, n = {n}" if test["paired"] else f"Welch, n = {n} or more"
    if not is_finite(test["p"]):
        kind = "none: identical trials" if test["identical"] else "none"
    ends = interval((test["low"], test["high"]), signed)
    return [signed(test["difference"]), ends, p_value(test["p"]), p_value(test["p_holm"]), kind]


def comparison_table(run: Run, compared: Sequence[tuple[Row, Row]]) -> Table:
    """Returns a row per compared point, with what `compare_points` returns of it."""
    axes = varying(run.summary["grid"])
    rows = [[*_values(point, axes), *_comparison_cells(test)] for point, test in compared]
    return Table([*ungrouped(axes), *_COMPARISON_COLUMNS], rows)


def network(run: Run, point: Row) -> str:
    """Names the network of a grid point: by its layers, or by the class of a user's file."""
    if (model := str(run.config["model"])) not in ("mlp", "cnn"):
        return one_line(model.rpartition(":")[2])
    hidden, conv = (shown(point.get(axis) or "none") for axis in ("hidden_sizes", "conv_features"))
    if conv != "none":
        return f"CNN {conv}" + f", {hidden}" * (hidden != "none")
    return f"MLP {hidden}" if hidden != "none" else "linear"


def runs_table(points: Sequence[NamedPoint]) -> Table:
    """Returns a row per point of several runs: accuracies in percent."""
    rows, data_names = [], _data_names([run for _, run, _ in points])
    for (name, run, point), data_name in zip(points, data_names, strict=True):
        p = protocol(run)
        measured = point["statistics"][p.column]
        chosen_of = count(len(run.summary["grid"]), "point")
        cells = [name, p.words, data_name, network(run, point)]
        cells += [chosen_of if p.criterion else "—", _num_sound(point)]
        rows.append([*cells, percent(measured["mean"]), interval(measured["interval_95"])])
    columns = ungrouped(["run", "protocol", "data set", "network", "chosen of", "n"])
    columns += [("test accuracy %", name) for name in ("mean", "95 % interval")]
    return Table(columns, rows)


def _data_names(runs: Sequence[Run]) -> list[str]:
    """Names the data sets of runs, with the start of the checksum where one name has several."""
    sets = [(run.summary["dataset"], run.summary["provenance"]["data_checksum"]) for run in runs]
    names = [name for name, _ in dict.fromkeys(sets)]
    return [
        f"{name} ({checksum.rpartition(':')[2][:8]})" if names.count(name) > 1 else name
        for name, checksum in sets
    ]


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Returns a row per pair: those that may be findings first, and of many the smallest p."""

    def key(pair):
        return bool(pair.incomparable), pair.test["p"] if is_finite(pair.test["p"]) else math.inf

    pairs = sorted(pairs, key=key)[:MAX_POINTS]
    rows = [[first.name, second.name, *_comparison_cells(test)] for first, second, test, _ in pairs]
    columns = [*ungrouped(["run", "minus"]), *_COMPARISON_COLUMNS]
    if any(pair.incomparable for pair in pairs):
        columns.append(("", "no finding, because"))
        rows = [[*row, pair.incomparable or "—"] for row, pair in zip(rows, pairs, strict=True)]
    return Table(columns, rows)


def differing(names: Sequence[str], records: Sequence[Row]) -> Table:
    """Returns a row per named run, with the keys on which its record differs from the others'."""
    flat = [_flat(record) for record in records]
    columns: dict[str, list[str]] = {}
    for key in dict.fromkeys(itertools.chain(*flat)):
        digits = num_digits(itertools.chain(*(record.get(key, ()) for record in flat)))
        texts = [_listed(record[key], digits) if key in record else "—" for record in flat]
        if key != "name" and len(set(texts)) > 1:
            columns[key] = texts
    rows = [list(row) for row in zip(names, *columns.values(), strict=True)]
    return Table(ungrouped(["run", *columns]), rows)


def key_values(record: Row) -> Table:
    """Returns a row per key of a record and of the records in it."""
    rows = [[key, _listed(values, num_digits(values))] for key, values in _flat(record).items()]
    return Table(ungrouped(["key", "value"]), rows)


def _flat(record: Row, prefix: str = "") -> dict[str, list]:
    """Returns the values, one or several, by the keys of a record and of the records in it."""
    flat: dict[str, list] = {}
    for key, value in record.items():
        name = prefix + key
        if isinstance(value, dict):
            flat |= _flat(value, f"{name}: ")
        else:
            flat[name] = value if isinstance(value, list) else [value]
    return flat


def _listed(values: Sequence, digits: int) -> str:
    return ", ".join(
        "—" if value in (None, "", []) else shown(records.as_text(value), digits)
        for value in values
    )
