"""Finished runs become figures, tables, Markdown and one self-contained HTML page.

    python -m mnist_jax.report DIR [DIR ...] [--output=DIR]

DIR is the work directory of a finished run. Of one, the report is made anew where it lies; several
are set side by side in a new directory. Everything is read from files; nothing is trained.
"""

import base64
import contextlib
import html
import io
import itertools
import math
import os
import re
import shlex
import textwrap
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from mnist_jax import UserError, data, figures, results, stats
from mnist_jax.figures import MAX_POINTS, Line, chosen_words, criterion_words
from mnist_jax.grid import AXES
from mnist_jax.results import (
    Row,
    Run,
    by_seed,
    compare_points,
    count,
    count_diverged,
    is_finite,
    label,
    protocol,
    ranked,
    shown,
    varying,
)

FLAGS = flags.FLAGS
flags.DEFINE_string(
    "output",
    None,
    "Where the report goes; by default the directory of the run, or runs/report/<UTC time>.",
)

LEVEL = 0.05  # corrected p-values below it tell grid points apart
MAX_NAMES = 8  # in a sentence
_GENERATOR = '<meta name="generator" content="mnist_jax.report">'  # marks what may be overwritten


class Table(NamedTuple):
    """Rows of cells; columns are (group, name), and equal groups stand next to each other."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A saved figure."""

    name: str
    caption: str
    svg: bytes


class Code(str):
    """A line to type."""


class Warn(str):
    """A paragraph that must not be overlooked."""


# A report is a list of sections: a title, and blocks, of which a plain string is a paragraph.
Section = tuple[str, Sequence[str | Code | Warn | Table | Picture]]


def write_report(workdir: str | os.PathLike, output: str | os.PathLike | None = None) -> str:
    """Writes report.md, report.html and figures/*.png and *.svg of a finished run.

    Args:
        workdir: Its directory.
        output: Where the report goes; by default there.

    Returns:
        What to print: a header, the table, the verdict, where the report lies.

    Raises:
        UserError: The directory holds no finished run, or the report cannot be written.
    """
    run = read_run(workdir)
    folder = run.workdir if output is None else check_output(output)
    title = f"{run.config['name']} on {run.summary['dataset']}"
    found = compare_best(run)
    said = [*verdict(run, found), chosen_trial(run)]
    pictures = _save(folder, figures_of_run(run))
    _write(folder, title, make_sections(run, found, said, pictures))
    return _to_print(headline(run), results_table(run), said, folder)


def write_comparison(workdirs: Sequence[str], output: str | os.PathLike | None = None) -> str:
    """Writes a report that sets several finished runs side by side.

    Args:
        workdirs: Their directories.
        output: Where the report goes; by default a new directory, runs/report/<UTC time>.

    Returns:
        What to print, as `write_report`.

    Raises:
        UserError: A directory is named twice or holds no finished run, or the report cannot be
            written.
    """
    paths = [Path(workdir).resolve() for workdir in workdirs]
    for path, workdir in zip(paths, workdirs, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"{workdir}: named twice; expected different runs, name each once")
    folder = check_output(output or Path("runs", "report", f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"))
    runs = name_runs([read_run(workdir) for workdir in workdirs])
    lines = name_lines(runs)
    pairs = compare_lines(lines)
    said = comparison_verdict(runs, lines, pairs)
    title = f"{len(runs)} runs side by side"
    pictures = _save(folder, figures_of_lines(lines))
    _write(folder, title, make_comparison(runs, lines, pairs, said, pictures))
    return _to_print(title, lines_table(lines), said, folder)


def read_run(workdir: str | os.PathLike) -> Run:
    """Reads a finished run, and checks that a report can be made of it.

    Raises:
        UserError: It is not finished, damaged, or not of this version.
    """
    try:
        run = results.read_run(workdir)
        whole = _is_whole(run)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise UserError(
            f"{workdir} cannot be read as a run: its files are damaged, or another version wrote"
            " them; repeat the run"
        )
    return run


def _is_whole(run: Run) -> bool:
    """Says whether a run has all that a report reads of it, or raises what a gap in it raises."""
    summary, rows, p = run.summary, run.results, protocol(run)
    measured = {p.column, p.criterion or p.column, *(column[2] for column in LAST_EPOCH)}
    for point in summary["grid"]:
        label(point, AXES)
        for column in measured:
            figures.mean_interval(point, column)
            [point["statistics"][column][name] for name in ("n", "std_ddof0", "min", "max")]
    named = {"trial", "point", "seed", "num_epochs", "diverged_epoch", p.column}
    named |= {f"best_{p.held_out}_epoch"} if p.choose_epoch else set()
    numbers = [row[column] for row in rows for column in named]
    sizes = {point["point"]: point["num_trials"] for point in summary["grid"]}
    lost = sum(len(point["diverged_seeds"]) for point in summary["grid"])
    return (
        all(isinstance(value, int | float) for value in numbers)
        and 0 < len(rows) == sum(sizes.values())
        and {row["point"] for row in rows} == sizes.keys()
        and count_diverged(rows) == lost
        and summary["chosen_trial"] in {row["trial"] for row in rows}
        and summary["chosen_point"] in {None, *sizes}
        and summary["dataset"] in data.CLASS_NAMES
        and {"command", "data_checksum"} <= summary["provenance"].keys()
        and is_finite(summary["provenance"]["seconds"]["train"])
        and {"name", "grid"} <= run.config.keys()
    )


def read_chosen_trial(run: Run) -> dict[str, np.ndarray]:
    """Reads the arrays of `results.write_chosen_trial`.

    Raises:
        UserError: They are missing or damaged.
    """
    needed = ("labels", "probabilities", "mistakes", "mistake_images")
    try:
        with np.load(run.workdir / "chosen_trial.npz") as file:
            return {name: file[name] for name in (*needed, *file)}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise figures.unreadable(run, "chosen_trial.npz", error) from None


def check_output(output: str | os.PathLike) -> Path:
    """Refuses a directory in which a report would replace what this command did not make.

    Raises:
        UserError: It holds a run or another report, or is a file.
    """
    path = Path(output).expanduser()
    page, others = path / "report.html", (path / "report.md", path / "figures")
    if path.exists() and not path.is_dir():
        problem = "is a file"
    elif (path / "config.json").exists():
        problem = "holds a run"
    elif page.is_file() and _GENERATOR in page.read_text(encoding="utf-8", errors="replace"):
        return path
    elif any(other.exists() for other in (page, *others)):
        problem = "holds a report that this command did not make"
    else:
        return path
    raise UserError(f"--output={path}: {problem}; expected a directory without; choose another")


def _save(folder: Path, drawn: Mapping[str, Callable[[], Any]]) -> list[Picture]:
    """Draws figures, each a function by its name, and saves them as PNG and SVG."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's backend may be missing here, and none is needed
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    pictures = []
    # Reset first: whatever the user's own matplotlibrc says.
    with style.context(figures.STYLE, after_reset=True):
        for name, draw in drawn.items():
            figure, caption = draw()
            files = {"png": io.BytesIO(), "svg": io.BytesIO()}
            # As figure.savefig does, but that draws everything twice and lays it out each time.
            FigureCanvasAgg(figure).print_png(files["png"])
            figure.set_layout_engine("none")
            FigureCanvasSVG(figure).print_svg(files["svg"], metadata={"Date": None})
            with _writing(folder / "figures"):
                for kind, file in files.items():
                    results.write_bytes(folder / "figures" / f"{name}.{kind}", file.getvalue())
            pictures.append(Picture(name, caption, files["svg"].getvalue()))
    return pictures


def _write(folder: Path, title: str, sections: Sequence[Section]) -> None:
    with _writing(folder):
        results.write_text(folder / "report.md", to_markdown(title, sections))
        results.write_text(folder / "report.html", to_html(title, sections))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Makes a folder, and says in one line why something in it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be written ({error.strerror}); make the run's"
            " directory writable, or name another by python -m mnist_jax.report DIR --output=DIR"
        ) from None


def _to_print(title: str, table: Table, said: Sequence[str], folder: Path) -> str:
    paragraphs = "\n".join(textwrap.fill(paragraph, 100) for paragraph in said)
    where = f"Report: {folder / 'report.html'} (also report.md and figures/ there)"
    return "\n\n".join([title, to_terminal(table), paragraphs, where])


def figures_of_run(run: Run) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of a run, by name of the file."""
    p, grid, axes = protocol(run), run.summary["grid"], varying(run.summary["grid"])
    drawn: dict[str, Callable[[], Any]] = {"accuracy_curves": partial(figures.draw_curves, run)}
    sizes = [len({point[axis] for point in grid}) for axis in axes]
    if axes and run.config["grid"] in ("random", "halton"):
        drawn["search"] = partial(figures.draw_search, run)
    elif len(grid) == math.prod(sizes):
        for axis in axes:
            drawn[f"accuracy_vs_{axis}"] = partial(figures.draw_axis, run, axis)
        if len(axes) == 2:
            drawn["heat_map"] = partial(figures.draw_heat_map, run)
    if len(axes) > 1:
        lines = [Line(label(point, axes), run, point) for point in shown_points(run)]
        which = ("the best " if p.criterion else "the first ") * (len(lines) < len(grid))
        title = f"{run.summary['dataset']}: {p.measure} of {which}{len(lines)} grid points"
        drawn["accuracy_by_point"] = partial(figures.draw_points, lines, f"{title} ({p.words})")
    chosen = read_chosen_trial(run)
    if np.isfinite(chosen["probabilities"]).all():
        drawn["classes"] = partial(figures.draw_classes, run, chosen)
        if len(chosen["mistakes"]):
            drawn["mistakes"] = partial(figures.draw_mistakes, run, chosen)
        drawn["first_layer"] = partial(figures.draw_weights, run, chosen)
    return drawn


def figures_of_lines(lines: Sequence[Line]) -> dict[str, Callable[[], Any]]:
    """Returns what draws the figures of several runs, by name of the file."""
    datasets = " and ".join(dict.fromkeys(line.run.summary["dataset"] for line in lines))
    words = list(dict.fromkeys(protocol(line.run).words for line in lines))
    how = words[0] if len(words) == 1 else "protocols differ: beware"
    points = partial(figures.draw_points, lines, f"{datasets}: test accuracy of the runs ({how})")
    curves = partial(figures.draw_overlay, lines, f"{datasets}: accuracy by epoch ({how})")
    return {"accuracy_by_run": points, "accuracy_curves": curves}


# --- numbers in print ---


def percent(value: object) -> str:
    """Shows a share of 1 in percent, without the sign."""
    return f"{100 * value:.2f}" if is_finite(value) else "—"


def signed(value: object) -> str:
    """Shows a difference of shares in percentage points."""
    return f"{100 * value:+.2f}" if is_finite(value) else "—"


def number(value: object) -> str:
    """Shows a loss."""
    return f"{value:.4f}" if is_finite(value) else "—"


def p_value(value: object) -> str:
    """Shows a p-value."""
    if not is_finite(value):
        return "—"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def interval(ends: Any, show: Callable[[object], str] = percent) -> str:
    """Shows the two ends of an interval."""
    return " to ".join(map(show, ends)) if is_finite(ends[0]) else "—"


def listed(names: Sequence[str]) -> str:
    """Writes names in a row, the first ones if they are many."""
    more = len(names) - MAX_NAMES
    return "; ".join([*names[:MAX_NAMES], *[f"and {more} more"] * (more > 0)])


def sentence(text: str) -> str:
    """Begins with a capital letter."""
    return text[0].upper() + text[1:]


def _num_sound(point: Row) -> str:
    n, lost = point["num_trials"], len(point["diverged_seeds"])
    return f"{n - lost} of {n}" if lost else str(n)


# --- what a run says ---


class Found(NamedTuple):
    """The best grid point of a run, or the first where nothing was chosen, against those after it.

    Attributes:
        point: The point.
        others: Each other one, with what `results.compare_points` returns of it.
    """

    point: Row
    others: Sequence[tuple[Row, Row]]


def shown_points(run: Run) -> list[Row]:
    """Returns the points that tables show: from best to worst, or in order if nothing chooses."""
    return ranked(run.summary["grid"], protocol(run).criterion)[:MAX_POINTS]


def compare_best(run: Run) -> Found:
    """Compares the first of the points that are shown with the others."""
    point, *others = shown_points(run)
    numbers = {point["point"], *(other["point"] for other in others)}
    few = run._replace(results=[row for row in run.results if row["point"] in numbers])
    return Found(point, list(zip(others, compare_points(few, point, others), strict=True)))


def headline(run: Run) -> str:
    """Names the experiment, the data set, the protocol, and how much was run."""
    epochs = sorted({point["num_epochs"] for point in run.summary["grid"]})
    sizes = [count(len(run.summary["grid"]), "grid point"), count(len(run.results), "trial")]
    sizes.append(f"{epochs[0]} to " * (len(epochs) > 1) + count(epochs[-1], "epoch"))
    words = protocol(run).words
    return f"{run.config['name']} on {run.summary['dataset']}: {words}; {', '.join(sizes)}"


def verdict(run: Run, found: Found) -> list[str]:
    """Says, in a paragraph each: the result, what it can be told apart from, what diverged."""
    p, grid, point = protocol(run), run.summary["grid"], found.point
    accuracy = f"{'mean ' * (point['num_trials'] > 1)}{p.measure} ({p.words})"
    accuracy += f": {accuracy_words(run, point)}."
    name = label(point, varying(grid))
    if count_diverged(run.results) == len(run.results):
        return ["Every trial diverged, so there is no result.", *diverged(run)]
    if len(grid) == 1:
        return [sentence(accuracy), *diverged(run)]
    chosen = (
        "Nothing was chosen, so none of the grid points is named the best: they stand in their"
        f" order, and the first, {name}, is compared with the others. Its {accuracy}"
    )
    if p.criterion:
        by = f"{'mean ' * (point['num_trials'] > 1)}{criterion_words(p)}"
        chosen = f"Best of {len(grid)} grid points by {by}: {name}. Its {accuracy}"
    return [chosen, apart(run, found), *diverged(run)]


def accuracy_words(run: Run, point: Row) -> str:
    """Says the test accuracy of a point, and how sure it is."""
    found = point["statistics"][protocol(run).column]
    if not found["n"]:
        return "not known, since every trial diverged"
    said = f"{percent(found['mean'])} %"
    if found["n"] == 1:
        return f"{said} of one trial. With one seed nothing can be said about its uncertainty"
    ends = interval(found["interval_95"])
    return f"{said}, 95 % interval {ends} (Student, n = {found['n']} seeds)"


def apart(run: Run, found: Found) -> str:
    """Says which grid points can be told apart from one, and which difference could be shown."""
    grid, axes = run.summary["grid"], varying(run.summary["grid"])
    judged = [(point, test) for point, test in found.others if is_finite(test["p_holm"])]
    if not judged:
        few = "one seed" if found.point["num_trials"] == 1 else "fewer than two sound trials"
        return (
            f"With {few} at a point, the scatter between seeds is not known, so differences between"
            " grid points cannot be judged."
        )
    tied = [label(point, axes) for point, test in judged if test["p_holm"] >= LEVEL]
    differing = [
        f"{label(point, axes)} (by {signed(test['difference'])} points)"
        for point, test in judged
        if test["p_holm"] < LEVEL
    ]
    others = "other point"
    if len(found.others) < len(grid) - 1:
        others = f"of the {len(found.others)} next{' best' * bool(protocol(run).criterion)} points"
    said = f"It cannot be told apart from {listed(tied)}. It differs from {listed(differing)}"
    if not differing:
        said = f"It cannot be told apart from any {others}"
    elif not tied:
        said = f"It differs from every {others}: {listed(differing)}"
    family = len(grid) * (len(grid) - 1) // 2
    said += f". {level_words(family, 'pairs of points')}."
    if unjudged := len(found.others) - len(judged):
        said += f" {count(unjudged, 'point')} cannot be judged, with fewer than two sound trials."
    n = found.point["num_trials"]
    if scatter := [test["std"] for _, test in judged if test["paired"] and test["n"] == n]:
        std = float(np.median(scatter))
        alone, corrected = (
            stats.minimum_difference(std, n, level=LEVEL / tests) for tests in (1, family)
        )
        said += f" {n} seeds are likely (four times in five) to show a difference of"
        said += f" {percent(alone)} points between two points that are compared alone"
        if family > 1:
            said += f", of {percent(corrected) if corrected < 0.1 else 'more than 10'} points with"
            said += " that correction"
        said += "."
    return said


def level_words(family: int, what: str) -> str:
    """Says what a difference was judged by."""
    corrected = f", corrected by Holm for all {family} {what}" if family > 1 else ""
    return f"Judged at the {100 * LEVEL:g} % level by t-tests over the seeds{corrected}"


def diverged(run: Run) -> list[str]:
    """Says which trials diverged, in a paragraph if any did."""
    lost, axes = count_diverged(run.results), varying(run.summary["grid"])
    names = [
        f"{label(point, axes)} (seeds {', '.join(map(str, seeds))})".strip()
        for point in run.summary["grid"]
        if (seeds := point["diverged_seeds"])
    ]
    said = f"Of {count(len(run.results), 'trial')}, {lost} diverged and are left out of every mean"
    return [f"{said}: {listed(names)}."] * bool(lost)


def chosen_trial(run: Run) -> str:
    """Names the trial whose weights are kept, and its score."""
    p = protocol(run)
    row = next(row for row in run.results if row["trial"] == run.summary["chosen_trial"])
    kind = "Chosen trial" if p.criterion else "Trial that is shown (the first; nothing chose it)"
    if row["diverged_epoch"]:
        return f"{kind}: {chosen_words(run)}, which diverged."
    at = f", epoch {row[f'best_{p.held_out}_epoch']}" if p.choose_epoch else ""
    return f"{kind}: {chosen_words(run)}; {percent(row[p.column])} % {p.measure}{at}."


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
        (test, "sd (ddof=0)", p.column, "std_ddof0", percent),
        (test, "min", p.column, "min", percent),
        (test, "max", p.column, "max", percent),
    ]
    if p.criterion and p.held_out == "validation":
        columns.insert(0, (validation, "mean", p.criterion, "mean", percent))
        columns.insert(1, (validation, "95 % interval", p.criterion, "interval_95", interval))
    return _points_table(run, columns)


def last_epoch_table(run: Run) -> Table:
    """Returns what was measured after the last epoch: accuracies in percent, losses in nats."""
    return _points_table(run, LAST_EPOCH)


def _points_table(run: Run, columns: Sequence[Column]) -> Table:
    axes, rows = varying(run.summary["grid"]), []
    for point in shown_points(run):
        cells = [*(shown(point[axis]) for axis in axes), _num_sound(point)]
        for _, _, column, statistic, show in columns:
            found = point["statistics"][column]
            alone = statistic == "std_ddof0" and found["n"] < 2  # the spread of one is none
            cells.append("—" if alone else show(found[statistic]))
        rows.append(cells)
    names = [("", axis.replace("_", " ")) for axis in axes]
    return Table([*names, ("", "n"), *(column[:2] for column in columns)], rows)


DIFFERENCE = "difference in percentage points"
_TEST_COLUMNS = (
    (DIFFERENCE, "mean"),
    (DIFFERENCE, "95 % interval"),
    ("", "p"),
    ("", "p (Holm)"),
    ("", "test"),
)


def comparison_table(run: Run, found: Found) -> Table:
    """Returns the differences of a point less each other, with their tests."""
    axes = varying(run.summary["grid"])
    names = [("", axis.replace("_", " ")) for axis in axes]
    rows = [
        [*(shown(point[axis]) for axis in axes), *_test_cells(test)] for point, test in found.others
    ]
    return Table([*names, *_TEST_COLUMNS], rows)


def _test_cells(test: Row) -> list[str]:
    n = test["n"]
    kind = "none" if n < 2 else f"paired, n = {n}" if test["paired"] else f"Welch, n = {n} or more"
    ends = interval((test["low"], test["high"]), signed)
    return [signed(test["difference"]), ends, p_value(test["p"]), p_value(test["p_holm"]), kind]


def make_sections(
    run: Run, found: Found, said: Sequence[str], pictures: Sequence[Picture]
) -> list[Section]:
    """Returns what report.md and report.html say of a run."""
    p, grid = protocol(run), run.summary["grid"]
    provenance = dict(run.summary["provenance"])
    command, seconds = provenance.pop("command"), provenance.pop("seconds")
    each = seconds["train"] / sum(row["num_epochs"] for row in run.results)
    timing = [[phase, f"{value:.2f}"] for phase, value in seconds.items()]
    timing.append(["train, by trial and epoch", f"{each:.4f}"])
    meaning = (
        f"{p.note} Statistics are over the n trials of a grid point that did not diverge; the"
        " interval is that of the mean (Student), sd the standard deviation of the population"
        " (ddof=0), as in the notebook."
    )
    if len(grid) > 1:
        order = f"from best to worst by mean {criterion_words(p)}" if p.criterion else "in order"
        meaning += f" Grid points are listed {order}."
    if len(grid) > MAX_POINTS:
        meaning += f" Of {len(grid)} the first {MAX_POINTS} are here; all are in summary.json, and"
        meaning += " every trial in results.csv."
    last = (
        "Means after the last epoch. The loss is cross-entropy in nats an image, the objective adds"
        " the L2 penalty. Training accuracy and loss are running means over the epoch."
    )
    tested = (
        f"{label(found.point, varying(grid))} less each of the others: {p.measure} ({p.words})."
        " Intervals are Student's and uncorrected; Holm's correction is for every pair of the"
        f" {len(grid)} points."
    )
    judged = any(is_finite(test["p"]) for _, test in found.others)
    compared: list[Section] = [("Comparisons", [comparison_table(run, found), tested])]
    clock = "Wall-clock time; training includes scoring the held-out images after each epoch."
    pair = [("", "key"), ("", "value")]
    repeat = "To repeat it, with a --workdir that holds no run:"
    return [
        ("What was run", [f"{headline(run)}.", repeat, Code(command)]),
        ("Verdict", said),
        ("Results", [results_table(run), meaning, last_epoch_table(run), last]),
        *(compared if judged else []),
        ("Figures", pictures),
        ("Timing", [clock, Table([("", "phase"), ("", "seconds")], timing)]),
        ("Provenance", [Table(pair, _flat(provenance))]),
        ("Config", [Table(pair, _flat(run.config))]),
    ]


def _flat(record: Row, prefix: str = "") -> list[list[str]]:
    rows = []
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _flat(value, f"{name}: ")
        else:
            values = value if isinstance(value, list) else [value]
            texts = ["—" if v in (None, "", []) else shown(results.as_text(v)) for v in values]
            rows.append([name, ", ".join(texts)])
    return rows


# --- what several runs say ---


class Pair(NamedTuple):
    """Two lines of different runs, and the test of their difference.

    Attributes:
        first: A line.
        second: Another.
        test: The fields of `stats.Comparison`, of the first less the second, and `p_holm`.
        beware: Why the difference is no finding; empty if it may be one.
    """

    first: Line
    second: Line
    test: Row
    beware: str


def name_runs(runs: Sequence[Run]) -> list[Run]:
    """Returns runs whose names differ: where their configs' do not, with folder or path."""
    plain = [run.config["name"] for run in runs]
    folders = [f"{run.config['name']} ({run.workdir.resolve().name})" for run in runs]
    paths = [str(run.workdir) for run in runs]
    names = next((x for x in (plain, folders) if len(set(x)) == len(x)), paths)
    return [
        run._replace(config=run.config | {"name": name})
        for run, name in zip(runs, names, strict=True)
    ]


def name_lines(runs: Sequence[Run]) -> list[Line]:
    """Returns the chosen point of each run; where nothing was chosen, the first ones."""
    lines = []
    for run in runs:
        num_points = 1 if protocol(run).criterion else _most_points(runs)
        for point in shown_points(run)[:num_points]:
            names = run.config["name"], label(point, varying(run.summary["grid"]))
            lines.append(Line(": ".join(filter(None, names)), run, point))
    return lines


def _most_points(runs: Sequence[Run]) -> int:
    return max(1, MAX_POINTS // len(runs))


def compare_lines(lines: Sequence[Line]) -> list[Pair]:
    """Tests the difference of every two lines of different runs, corrected for their number."""
    values = [by_seed(run, point, protocol(run).column) for _, run, point in lines]
    pairs = [
        Pair(a, b, stats.compare(values[i], values[j])._asdict(), beware(a.run, b.run))
        for (i, a), (j, b) in itertools.combinations(enumerate(lines), 2)
        if a.run is not b.run
    ]
    for pair, p in zip(pairs, stats.holm([pair.test["p"] for pair in pairs]), strict=True):
        pair.test["p_holm"] = float(p)
    return pairs


def beware(first: Run, second: Run) -> str:
    """Says why a difference of two runs is no finding; empty if it may be one."""
    a, b = first.summary, second.summary
    reasons = []
    if a["dataset"] != b["dataset"]:
        reasons.append("data sets differ")
    elif a["provenance"]["data_checksum"] != b["provenance"]["data_checksum"]:
        reasons.append("data files differ")
    if a["protocol"] != b["protocol"]:
        reasons.append("protocols differ")
    return ", ".join(reasons)


def warnings_of(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Warn]:
    """Returns what makes differences between the runs misleading."""
    said, by_words = [], dict[str, list[str]]()
    for run in runs:
        by_words.setdefault(protocol(run).words, []).append(run.config["name"])
    if len(by_words) > 1:
        each = " ".join(f"{sentence(words)}: {listed(x)}." for words, x in by_words.items())
        said.append(
            f"the runs were scored by different protocols. {each} A number that the test set chose"
            " is biased upwards: a difference between protocols must not be taken for a finding."
        )
    if any("data" in pair.beware for pair in pairs):
        said.append(
            "the runs were not trained and tested on the same data. A difference between data sets"
            " says nothing about networks or recipes."
        )
    sizes = {len(run.summary["grid"]) for run in runs if run.summary["protocol"] == "test"}
    if len(sizes) > 1:
        said.append(
            "the test set chose among different numbers of grid points. The more there are, the"
            " more the best one is biased upwards."
        )
    return [Warn(f"WARNING: {text}") for text in said]


def comparison_verdict(
    runs: Sequence[Run], lines: Sequence[Line], pairs: Sequence[Pair]
) -> list[str]:
    """Says what to beware of, which lines differ, and what diverged."""
    judged = [pair for pair in pairs if not pair.beware and is_finite(pair.test["p_holm"])]
    differing = [
        f"{first.name} less {second.name} is {signed(test['difference'])} points (95 % interval"
        f" {interval((test['low'], test['high']), signed)}, corrected p {p_value(test['p_holm'])})"
        for first, second, test, _ in sorted(judged, key=lambda pair: pair.test["p"])
        if test["p_holm"] < LEVEL
    ]
    level = level_words(len(pairs), "pairs")
    if not judged:
        said = (
            "No difference can be judged: no two of these runs have the same protocol and data, and"
            " two sound trials each."
        )
    elif not differing:
        said = f"No two comparable runs can be told apart. {level}."
    else:
        said = f"Of {count(len(judged), 'comparable pair')}, {len(differing)} can be told apart:"
        said += f" {listed(differing)}. {level}."
    numbers = [line.point["statistics"][protocol(line.run).column]["n"] for line in lines]
    alone = "Of a run with one seed nothing can be said about its uncertainty."
    return [
        *warnings_of(runs, pairs),
        said,
        *[alone] * (1 in numbers),
        *(f"{run.config['name']}: {text}" for run in runs for text in diverged(run)),
    ]


def network(point: Row) -> str:
    """Names the network of a grid point."""
    hidden, conv = point["hidden_sizes"], point["conv_features"]
    if conv:
        return f"CNN {conv}" + f", {hidden}" * bool(hidden)
    return f"MLP {hidden}" if hidden else "linear"


def lines_table(lines: Sequence[Line]) -> Table:
    """Returns a row per line: accuracies in percent."""
    names = ("run", "protocol", "data set", "network", "chosen of", "n")
    rows = []
    for name, run, point in lines:
        p = protocol(run)
        found, chosen_of = point["statistics"][p.column], count(len(run.summary["grid"]), "point")
        cells = [name, p.words, run.summary["dataset"], network(point)]
        cells += [chosen_of if p.criterion else "—", _num_sound(point)]
        rows.append([*cells, percent(found["mean"]), interval(found["interval_95"])])
    measured = [("test accuracy %", "mean"), ("test accuracy %", "95 % interval")]
    return Table([*(("", name) for name in names), *measured], rows)


def pairs_table(pairs: Sequence[Pair]) -> Table:
    """Returns a row per pair: those that may be findings first, and of many the smallest p."""

    def key(pair):
        return bool(pair.beware), pair.test["p"] if is_finite(pair.test["p"]) else math.inf

    pairs = sorted(pairs, key=key)[:MAX_POINTS]
    rows = [[first.name, second.name, *_test_cells(test)] for first, second, test, _ in pairs]
    columns = [("", "run"), ("", "less"), *_TEST_COLUMNS]
    if any(pair.beware for pair in pairs):
        columns.append(("", "no finding, since"))
        rows = [[*row, pair.beware or "—"] for row, pair in zip(rows, pairs, strict=True)]
    return Table(columns, rows)


def make_comparison(
    runs: Sequence[Run],
    lines: Sequence[Line],
    pairs: Sequence[Pair],
    said: Sequence[str],
    pictures: Sequence[Picture],
) -> list[Section]:
    """Returns what report.md and report.html say of several runs."""
    paths = [str(run.workdir) for run in runs]
    command = Code(shlex.join(["python", "-m", "mnist_jax.report", *paths]))
    made = [dict(run.summary["provenance"]) for run in runs]
    commands = [
        (f"{run.config['name']}, in {path}:", Code(record.pop("command")))
        for run, path, record in zip(runs, paths, made, strict=True)
    ]
    notes = [f"{sentence(p.words)}. {p.note}" for p in dict.fromkeys(map(protocol, runs))]
    meaning = (
        "Of a run that chose a grid point it is that one, of another each of its points (at most"
        f" {_most_points(runs)}). Means are over the n trials that did not diverge, and have"
        " Student's intervals."
    )
    tests = (
        "Every two lines of different runs. Trials are paired if both have the same seeds, and else"
        " compared by Welch's test. Intervals are Student's and uncorrected; Holm's correction is"
        f" for {count(len(pairs), 'pair')}."
    )
    if len(pairs) > MAX_POINTS:
        tests += (
            f" Here are {MAX_POINTS}, those that may be findings and have the smallest p first."
        )
    configs = [run.config for run in runs]
    again = "To make this page again:"
    return [
        ("What was compared", [again, command, *itertools.chain(*commands)]),
        ("Verdict", said),
        ("Results", [lines_table(lines), *notes, meaning]),
        ("Comparisons", [pairs_table(pairs), tests]),
        ("Figures", pictures),
        ("Configs, where they differ", [_differing(runs, configs)]),
        ("Provenance, where it differs", [_differing(runs, made)]),
    ]


def _differing(runs: Sequence[Run], records: Sequence[Row]) -> Table:
    """Returns a row per run, with the keys on which the records differ."""
    flat = [{k: v for k, v in _flat(record) if k != "name"} for record in records]
    keys = [k for k in dict.fromkeys(itertools.chain(*flat)) if len({r.get(k) for r in flat}) > 1]
    rows = [
        [run.config["name"], *(record.get(key, "—") for key in keys)]
        for run, record in zip(runs, flat, strict=True)
    ]
    return Table([("", "run"), *(("", key) for key in keys)], rows)


# --- renderers ---


def _groups(table: Table) -> list[tuple[str, int]]:
    """Returns each group of columns and how many it spans."""
    grouped = itertools.groupby(group for group, _ in table.columns)
    return [(group, len(list(members))) for group, members in grouped]


def to_terminal(table: Table) -> str:
    """Renders a table for a fixed-width font."""
    lines = [[name for _, name in table.columns], *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    head, start = [], 0
    for group, span in _groups(table):
        gaps = 2 * (span - 1)
        widths[start] += max(0, len(group) - sum(widths[start : start + span]) - gaps)
        head.append(group.center(sum(widths[start : start + span]) + gaps))
        start += span
    lines = [head, *([*map(str.rjust, line, widths)] for line in lines)]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def commit_of(provenance: Row) -> str:
    """Shortens the recorded commit, and says where the checkout had changes of its own."""
    commit, *changed = str(provenance["commit"]).partition("-")
    return commit[:12] + "".join(changed)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Renders cells that are Markdown already; columns after the first are aligned as numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def fill_in(path: Path, sections: Mapping[str, str]) -> None:
    """Replaces what stands between `<!-- NAME -->` and `<!-- end NAME -->` in a Markdown file."""
    text = path.read_text(encoding="utf-8")
    for name, section in sections.items():
        start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
        before, rest = text.split(start)
        _, after = rest.split(end)
        text = f"{before}{start}\n{section}\n{end}{after}"
    results.write_text(path, text)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as Markdown, with links to the pictures."""

    def plain(text):
        return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)

    parts = [f"# {plain(title)}"]
    for heading, blocks in sections:
        parts.append(f"## {heading}")
        for block in blocks:
            match block:
                case Picture(name, caption):
                    parts += [f"![{plain(name)}](figures/{name}.png)", plain(caption)]
                case Table(columns, rows):
                    names = [f"{group}: {name}" if group else name for group, name in columns]
                    escaped = [[plain(cell) for cell in cells] for cells in (names, *rows)]
                    parts.append(markdown_table(escaped[0], escaped[1:]))
                case Code():
                    parts.append(f"    {block}")
                case Warn():
                    parts.append(f"> **{plain(block)}**")
                case _:
                    parts.append(plain(block))
    return "\n\n".join(parts) + "\n"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{generator}
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #8886; }}
th[colspan] {{ text-align: center; }}
:is(th, td):is(:first-child, :nth-child(2):last-child) {{ text-align: left; }}
td:nth-child(2):last-child {{ overflow-wrap: anywhere; }}
.warning {{ border: 2px solid #d55e00; padding: 0.5rem 0.8rem; font-weight: bold; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: 0.6rem; background: #8882; }}
pre span {{ display: inline-block; }}
figure {{ margin: 1.5rem 0; break-inside: avoid; }}
img {{ max-width: 100%; min-width: 34rem; background: white; }}
@media print {{ body {{ max-width: none; padding: 0; }} img {{ min-width: 0; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""


def to_html(title: str, sections: Sequence[Section]) -> str:
    """Renders a report as one page that needs no other file, network or script."""
    plain = html.escape

    def row(cells, tag="td"):
        return f"<tr>{''.join(f'<{tag}>{plain(cell)}</{tag}>' for cell in cells)}</tr>"

    parts = []
    for heading, blocks in sections:
        parts.append(f"<h2>{plain(heading)}</h2>")
        for block in blocks:
            match block:
                case Picture(name, caption, svg):
                    source = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}"
                    image = f'<div><img src="{source}" alt="{plain(name)}"></div>'
                    caption = f"<figcaption>{plain(caption)}</figcaption>"
                    parts.append(f"<figure>{image}{caption}</figure>")
                case Table(columns, rows):
                    spans = "".join(
                        f'<th colspan="{span}">{plain(group)}</th>'
                        for group, span in _groups(block)
                    )
                    head = f"<tr>{spans}</tr>" if any(group for group, _ in columns) else ""
                    lines = [head, row([name for _, name in columns], "th"), *map(row, rows)]
                    parts.append("<div><table>{}</table></div>".format("\n".join(lines)))
                case Code():
                    # Lines break between words alone, where a copy can be pasted.
                    words = (f"<span>{plain(word)}</span>" for word in block.split(" "))
                    parts.append(f"<pre>{' '.join(words)}</pre>")
                case Warn():
                    parts.append(f'<p class="warning">{plain(block)}</p>')
                case _:
                    parts.append(f"<p>{plain(block)}</p>")
    body = "\n".join(parts)
    return PAGE.format(title=plain(title), generator=_GENERATOR, body=body)


def main(argv: list[str]) -> None:
    """Makes the report of the runs in the directories that the command line names."""
    for name in ("config", "seed", "workdir", "overwrite", "data_dir"):  # of mnist_jax.main
        if name in FLAGS and FLAGS[name].present:
            raise UserError(f"--{name}: a report does not know it; see --help")
    match argv[1:]:
        case []:
            expected = "one, a finished run's directory, or several"
            raise UserError(f"0 arguments: expected {expected}; see --help")
        case [workdir]:
            print(write_report(workdir, FLAGS.output))
        case workdirs:
            print(write_comparison(workdirs, FLAGS.output))


if __name__ == "__main__":
    from mnist_jax.main import run_command  # knows how bad input ends

    run_command(main)
