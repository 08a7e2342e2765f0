"""The tables of runs, before they are rendered.

`render.py` and `terminal.py` lay them out; the words around them are in `sections.py`, `verdict.py`
and `several_runs.py`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from mnist_jax.config.columns import METRICS, at_best, metric_name
from mnist_jax.report.formatting import (
    interval,
    listed,
    measure,
    number,
    p_value,
    percent,
    sentence,
    signed,
)
from mnist_jax.report.pairs import Pair
from mnist_jax.report.points import MAX_POINTS, NamedPoint, criterion_words, shown_points
from mnist_jax.runs import records
from mnist_jax.runs.choosing import count_diverged, is_finite
from mnist_jax.runs.labels import count, num_digits, shown, varying
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run, protocol
from mnist_jax.text import one_line


class Table(NamedTuple):
    """Rows of cells; columns are (group, name), and equal groups stand next to each other."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


# A column of a table: its group and name, the column of results.csv, a statistic, how it is shown.
Column = tuple[str, str, str, str, Callable[[Any], str]]
LAST_EPOCH: list[Column] = [
    ("accuracy %", "test", "test_accuracy", "mean", percent),
    ("accuracy %", "training", "train_accuracy", "mean", percent),
    ("loss", "test", "test_loss", "mean", number),
    ("loss", "training", "train_loss", "mean", number),
    ("objective", "test", "test_objective", "mean", number),
]


def results_table(run: Run) -> Table:
    """Returns a row per grid point, of the best ones if they are many: accuracies in percent."""
    p = protocol(run)
    test, validation = f"{p.measure} %", f"{criterion_words(p)} %"
    columns: list[Column] = [
        (test, "mean", p.column, "mean", percent),
        (test, "95 % interval", p.column, "interval_95", interval),
        (test, "sd", p.column, "std_ddof1", percent),
        (test, "min", p.column, "min", percent),
        (test, "max", p.column, "max", percent),
    ]
    if p.criterion and p.held_out == "validation":
        columns.insert(0, (validation, "mean", p.criterion, "mean", percent))
        columns.insert(1, (validation, "95 % interval", p.criterion, "interval_95", interval))
    return _points_table(run, columns)


def brief_results_table(run: Run) -> Table:
    """Returns `results_table` with fewer columns and narrower names."""
    p, columns = protocol(run), list[Column]()
    if p.criterion and p.held_out == "validation":
        columns.append(("accuracy %", "validation", p.criterion, "mean", percent))
    columns += [
        ("accuracy %", "test", p.column, "mean", percent),
        ("accuracy %", "95 % interval", p.column, "interval_95", interval),
        ("accuracy %", "sd", p.column, "std_ddof1", percent),
    ]
    table = _points_table(run, columns)
    return table._replace(columns=[(g, name.replace("_", "\n_")) for g, name in table.columns])


def last_epoch_table(run: Run) -> Table:
    """Returns what was measured after the last epoch: accuracies in percent, losses in nats."""
    return _points_table(run, LAST_EPOCH)


def metrics_table(run: Run) -> Table:
    """Returns what else was measured of test images, at the epoch that counts."""
    columns: list[Column] = []
    for name, column in _metrics(run):
        known, group = METRICS.get(name), name
        show = measure if known is None else percent if known.counts else number
        group += " %" * (show is percent)
        columns.append((group, "mean", column, "mean", show))
        ends = partial(interval, show=show)
        columns.append((group, "95 % interval", column, "interval_95", ends))
    return _points_table(run, columns)


def metrics_words(run: Run) -> str:
    """Says what the metrics are, and which are not known."""
    when = protocol(run).measure.partition(" ")[0]
    num_sound = len(run.results) - count_diverged(run.results)
    sentences = [f"{sentence(when)} values of the test images; means over the n trials."]
    missing = []
    for spec, (name, column) in zip(run.config["metrics"], _metrics(run), strict=True):
        what = METRICS[name].words if name in METRICS else f"as {one_line(spec)} computes it"
        sentences.append(f"{name}: {what}.")
        if sum(point["statistics"][column]["n"] for point in run.summary["grid"]) < num_sound:
            missing.append(name)
    if missing:
        sentences.append(f"Trials without a finite number are left out of: {listed(missing)}.")
    return " ".join(sentences)


def _metrics(run: Run) -> list[tuple[str, str]]:
    """Returns each metric's name, and the column that counts."""
    p, names = protocol(run), map(metric_name, run.config["metrics"])
    return [
        (name, at_best(p.held_out, name) if p.choose_epoch else f"test_{name}") for name in names
    ]


def _points_table(run: Run, columns: Sequence[Column]) -> Table:
    axes, rows = varying(run.summary["grid"]), []
    for point in shown_points(run):
        cells = [*(shown(point[axis], axis.digits) for axis in axes), _num_sound(point)]
        for _, _, column, statistic, show in columns:
            cells.append(show(point["statistics"][column][statistic]))
        rows.append(cells)
    names = [("", str(axis)) for axis in axes]
    return Table([*names, ("", "n"), *(column[:2] for column in columns)], rows)


def _num_sound(point: Row) -> str:
    """Counts the trials of a grid point that did not diverge."""
    n, lost = point["num_trials"], len(point["diverged_seeds"])
    return f"{n - lost} of {n}" if lost else str(n)


_DIFFERENCE = "difference in percentage points"
_COMPARISON_COLUMNS = (
    (_DIFFERENCE, "mean"),
    (_DIFFERENCE, "95 % interval"),
    ("", "p"),
    ("", "p (Holm)"),
    ("", "test"),
)


def _comparison_cells(test: Row) -> list[str]:
    """Shows a comparison, as `compare_points` returns it, in `_COMPARISON_COLUMNS`."""
    n = test["n"]
    kind = f"paired, n = {n}" if test["paired"] else f"Welch, n = {n} or more"
    if not is_finite(test["p"]):
        kind = "none: identical trials" if test["identical"] else "none"
    ends = interval((test["low"], test["high"]), signed)
    return [signed(test["difference"]), ends, p_value(test["p"]), p_value(test["p_holm"]), kind]


def comparison_table(run: Run, compared: Sequence[tuple[Row, Row]]) -> Table:
    """Returns a row per compared point, with what `compare_points` returns of it."""
    axes = varying(run.summary["grid"])
    names = [("", str(axis)) for axis in axes]
    rows = [
        [*(shown(point[axis], axis.digits) for axis in axes), *_comparison_cells(test)]
        for point, test in compared
    ]
    return Table([*names, *_COMPARISON_COLUMNS], rows)


def network(run: Run, point: Row) -> str:
    """Names the network of a grid point: by its layers, or by the class of a file of one's own."""
    if (model := str(run.config["model"])) not in ("mlp", "cnn"):
        return one_line(model.rpartition(":")[2])
    hidden, conv = (shown(point.get(axis) or "none") for axis in ("hidden_sizes", "conv_features"))
    if conv != "none":
        return f"CNN {conv}" + f", {hidden}" * (hidden != "none")
    return f"MLP {hidden}" if hidden != "none" else "linear"


def runs_table(points: Sequence[NamedPoint]) -> Table:
    """Returns a row per point of several runs: accuracies in percent."""
    names = ("run", "protocol", "data set", "network", "chosen of", "n")
    rows = []
    for name, run, point in points:
        p = protocol(run)
        measured = point["statistics"][p.column]
        chosen_of = count(len(run.summary["grid"]), "point")
        cells = [name, p.words, run.summary["dataset"], network(run, point)]
        cells += [chosen_of if p.criterion else "—", _num_sound(point)]
        rows.append([*cells, percent(measured["mean"]), interval(measured["interval_95"])])
    accuracies = [("test accuracy %", "mean"), ("test accuracy %", "95 % interval")]
    return Table([*(("", name) for name in names), *accuracies], rows)


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Returns a row per pair: those that may be findings first, and of many the smallest p."""

    def key(pair):
        return bool(pair.incomparable), pair.test["p"] if is_finite(pair.test["p"]) else math.inf

    pairs = sorted(pairs, key=key)[:MAX_POINTS]
    rows = [[first.name, second.name, *_comparison_cells(test)] for first, second, test, _ in pairs]
    columns = [("", "run"), ("", "minus"), *_COMPARISON_COLUMNS]
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
    return Table([("", "run"), *(("", key) for key in columns)], rows)


def key_values(record: Row) -> Table:
    """Returns a row per key of a record and of the records in it."""
    rows = [[key, _listed(values, num_digits(values))] for key, values in _flat(record).items()]
    return Table([("", "key"), ("", "value")], rows)


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
    texts = [
        "—" if value in (None, "", []) else shown(records.as_text(value), digits)
        for value in values
    ]
    return ", ".join(texts)
