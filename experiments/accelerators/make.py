"""Measures the project on one GPU: compiled epochs, a step and its peers, whole runs.

    pip install -e '.[cuda,bench]' && python experiments/accelerators/make.py [FOLDER] [--small]

A record that is in the folder (by default this one) is kept. What is missing is measured, in the
order of `WHOLE.records`. Nothing is begun once `--minutes` are over: the same command continues. By
the recorded times an H200 measures all but the last three in that time, which has not been tried.
Then the tables of the folder's README.md are written between its markers, and the figure. MNIST is
that of MNIST_JAX_DATA_DIR, or downloaded. `--small` tries it on a CPU, on digits.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from mnist_jax import disk
from mnist_jax.benchmark import peers, rounds
from mnist_jax.config.experiment import read_experiment
from mnist_jax.data import loading
from mnist_jax.report.figures import canvas
from mnist_jax.report.render import markdown_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies

HERE = Path(os.path.relpath(Path(__file__).parent))
CPU = HERE.parent / "step_time"
NETWORKS = {"baseline": "784-64-64-10", "l2_sweep": "784-500-300-10", "cnn": "CNN"}
ON_CPU = {"baseline": "baseline", "l2_sweep": "mlp", "cnn": "cnn"}  # the same network's records


class Sweep(NamedTuple):
    """A whole run.

    Attributes:
        config: The name of its config.
        options: Further command-line options.
        words: Further words for the table.
    """

    config: str
    options: tuple[str, ...] = ()
    words: str = ""


SWEEPS = {
    "l2_15": Sweep("l2_sweep", words=", empty caches"),  # `time_sweep` empties them for it
    "l2_15_warm": Sweep("l2_sweep", words=", warm caches"),
    "l2_1000": Sweep("l2_sweep", ("--config.num_seeds=200",)),
    "cnn_64": Sweep("cnn", ("--config.num_seeds=64",)),
    "l2_validation": Sweep(
        "l2_sweep",
        ("--config.num_seeds=100", "--config.protocol=validation"),
        ", validation images choose the epoch",
    ),
    "beyond_98_47": Sweep("beyond_98_47", ("--config.num_seeds=100", "--seed=5000")),
}


class Size(NamedTuple):
    """How much is measured.

    Attributes:
        records: The files that are measured, in this order.
        dataset: Name of the data set.
        precision: The precision of matrix products.
        trial_counts: By config, the numbers of trials that train together.
        more_cases: Further (config, trials, precision) to time.
        options: Command-line options of every program.
        rounds: Rounds of a benchmark.
        peers: Peers of a benchmark.
    """

    records: tuple[str, ...]
    dataset: str
    precision: str
    trial_counts: dict[str, tuple[int, ...]]
    more_cases: tuple[tuple[str, int, str], ...]
    options: tuple[str, ...]
    rounds: int
    peers: str

    @property
    def cases(self) -> list[str]:
        """The cases that `epochs.py` times."""
        cases = [(name, n, self.precision) for name, ns in self.trial_counts.items() for n in ns]
        return [f"{name}:{n}:{precision}" for name, n, precision in (*cases, *self.more_cases)]


WHOLE = Size(
    records=(
        *("epochs.jsonl", "benchmark_15.json", "peers.jsonl"),
        *(f"{name}/summary.json" for name in ("l2_15", "l2_15_warm", "l2_1000", "cnn_64")),
        "benchmark_1000.json",
        *(f"{name}/summary.json" for name in ("l2_validation", "beyond_98_47")),
    ),
    dataset="mnist",
    precision="tf32",
    trial_counts={
        "l2_sweep": (1, 15, 64, 200, 1000),
        "baseline": (15, 256, 1000),
        "cnn": (1, 15, 64),
    },
    more_cases=tuple(("l2_sweep", n, p) for n in (15, 1000) for p in ("bfloat16", "float32")),
    options=("--config.precision=tf32",),
    rounds=3,
    peers="torch,flax",
)
SMALL = Size(
    records=(
        *("epochs.jsonl", "benchmark_15.json", "peers.jsonl"),
        *(f"{name}/summary.json" for name in ("l2_15", "l2_15_warm", "l2_validation")),
    ),
    dataset="digits",
    precision="float32",
    trial_counts={"l2_sweep": (1, 2), "baseline": (2,)},
    more_cases=(),
    options=("--config.dataset=digits", "--config.num_epochs=1"),
    rounds=1,
    peers="flax",
)


# --- measuring ---


def missing_cases(folder: Path, size: Size) -> list[str]:
    """Returns the cases of `epochs.py` that have no row yet."""
    there = {
        f"{row['config']}:{row['trials']}:{row['precision']}"
        for row in studies.read_rows(folder / "epochs.jsonl")
        if "variant" not in row
    }
    return [case for case in size.cases if case not in there]


def time_epochs(folder: Path, size: Size) -> None:
    """Times the cases that have no row yet."""
    program, file = str(HERE / "epochs.py"), str(folder / "epochs.jsonl")
    cases = missing_cases(folder, size)
    subprocess.run([sys.executable, program, file, size.dataset, *cases], check=True)


def time_benchmark(folder: Path, size: Size, num_trials: int, *arguments: str) -> None:
    """Benchmarks the sweep of so many trials."""
    seeds = 1 if size is SMALL else num_trials // 5  # of five L2 factors
    file = folder / f"benchmark_{num_trials}.json"
    studies.run("benchmark", "--config=configs/l2_sweep.py", *size.options, *arguments,
        f"--config.num_seeds={seeds}", f"--json={file}")  # fmt: skip


def time_peers(folder: Path, size: Size) -> None:
    """Times PyTorch's loop on each network; a first epoch warms up."""
    dataset, rows = loading.load_dataset(size.dataset), []
    platform = "cpu" if size is SMALL else "gpu"
    for config in NETWORKS:
        point = read_experiment(f"configs/{config}.py", {}).points[0]
        with tempfile.TemporaryDirectory() as temporary:
            running, _ = peers.start_peers(
                ["torch"], point, dataset, Path(temporary), dict(os.environ), platform,
                size.precision,
            )  # fmt: skip
            for name, process in running.items():
                epochs = [process.train_epoch() for _ in range(1 + size.rounds)]
                process.close()
                found = rounds.spread([1e6 * e.seconds / e.steps for e in epochs[1:]])
                rows.append({"config": config, "peer": name, "us_step": found["median"],
                             "precision": size.precision, **process.description})  # fmt: skip
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        disk.write_text(folder / "peers.jsonl", text)


def time_sweep(folder: Path, size: Size, name: str) -> None:
    """Runs a sweep from its start, and keeps its summary and its accuracies."""
    sweep, workdir, cache = SWEEPS[name], folder / "runs" / name, folder / "runs" / "cache"
    if name == "l2_15":
        shutil.rmtree(cache, ignore_errors=True)
    small = ("--config.num_seeds=2",) if size is SMALL else ()
    options = (*size.options, *sweep.options, *small, "--overwrite", f"--workdir={workdir}")
    config = f"--config=configs/{sweep.config}.py"
    studies.run("main", config, *options, MNIST_JAX_CACHE_DIR=str(cache))
    (folder / name).mkdir(exist_ok=True)
    keep_accuracies(workdir / "results.csv", folder / name / "accuracies.csv")
    studies.keep_files(workdir, folder / name, ["summary.json"])  # last: now it is finished
    shutil.rmtree(workdir / "checkpoints")  # of 1,000 trials they are gigabytes


def keep_accuracies(results: Path, file: Path) -> None:
    """Cuts a run's rows to what tells trials apart and the accuracies on the test set."""
    with open(results, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    columns = ["seed", "l2", "diverged_epoch", *(name for name in rows[0] if "test_acc" in name)]
    lines = [columns, *([row[name] for name in columns] for row in rows)]
    disk.write_text(file, "".join(",".join(line) + "\n" for line in lines))


def measure(folder: Path, size: Size, minutes: float) -> None:
    """Measures what is missing while time remains; reports what failed and what is left."""
    steps: dict[str, Callable[[], None]] = {
        "epochs.jsonl": lambda: time_epochs(folder, size),
        "benchmark_15.json": lambda: time_benchmark(
            folder, size, 15, f"--peers={size.peers}", f"--rounds={size.rounds}"
        ),
        "benchmark_1000.json": lambda: time_benchmark(folder, size, 1000, "--rounds=2"),
        "peers.jsonl": lambda: time_peers(folder, size),
        **{f"{name}/summary.json": partial(time_sweep, folder, size, name) for name in SWEEPS},
    }
    start, noted = time.monotonic(), read(folder, "noted.json").get("runs", {})
    for record in size.records:
        there = (folder / record).exists() or os.path.dirname(record) in noted
        if there and not (record == "epochs.jsonl" and missing_cases(folder, size)):
            continue
        if time.monotonic() - start > 60 * minutes:
            print(f"{record} is left for the next call: {minutes:g} minutes are over", flush=True)
            continue
        try:
            steps[record]()
        except subprocess.CalledProcessError as error:
            print(f"{record} failed with status {error.returncode}", flush=True)


# --- tables and figure ---


def read(folder: Path, name: str) -> dict:
    """Returns a record, an empty one if there is none."""
    return studies.read_record(folder / name)


def plain(epochs: list[dict], precision: str) -> dict[str, dict[int, dict]]:
    """Returns the epochs without a variant, in one precision, by config and trials."""
    found: dict[str, dict[int, dict]] = {}
    for row in epochs:
        if row["precision"] == precision and "variant" not in row:
            found.setdefault(row["config"], {})[row["trials"]] = row
    return {config: dict(sorted(rows.items())) for config, rows in found.items()}


def show_seconds(seconds: float) -> str:
    """Returns a cell."""
    return f"{seconds:.{1 if seconds < 100 else 0}f}"


def seconds_of(folder: Path, name: str) -> dict[str, float]:
    """Returns how long a whole run took, by phase; what was noted by hand counts too."""
    if summary := read(folder, f"{name}/summary.json"):
        return summary["provenance"]["seconds"]
    return read(folder, "noted.json").get("runs", {}).get(name, {}).get("seconds", {})


def whole(folder: Path, epochs: dict[str, dict[int, dict]]) -> str:
    """Shows whole runs, and what their compiled epochs alone take."""
    noted, rows = read(folder, "noted.json").get("runs", {}), []
    for name, sweep in SWEEPS.items():
        if summary := read(folder, f"{name}/summary.json"):
            trials = sum(point["num_trials"] for point in summary["grid"])
            num_epochs = summary["grid"][0]["num_epochs"]
        elif name in noted:
            trials, num_epochs = noted[name]["trials"], noted[name]["epochs"]
        else:
            continue
        seconds = seconds_of(folder, name)
        validated = "--config.protocol=validation" in sweep.options  # it has fewer steps
        timed = {} if validated else epochs.get(sweep.config, {}).get(trials, {})
        alone = f"{timed['epoch_ms'] * num_epochs / 1e3:.3g}" if timed else "—"
        rows.append([
            f"`{sweep.config}.py`, {trials:,} trials of {num_epochs} epochs{sweep.words}", alone,
            *(show_seconds(seconds[phase]) for phase in ("train", "compile", "total")),
        ])  # fmt: skip
    header = ["seconds", "compiled epochs alone", "training with checkpoints", "compiling",
              "start to report"]  # fmt: skip
    return markdown_table(header, rows)


def by_trials(epochs: list[dict]) -> str:
    """Shows a step's time and memory by the number of trials and the precision."""
    order = list(NETWORKS)
    shown = sorted(
        (row for row in epochs if "variant" not in row),
        key=lambda row: (order.index(row["config"]), row["precision"] != "tf32", row["precision"],
                         row["trials"]),
    )  # fmt: skip
    rows = [
        [NETWORKS[row["config"]], f"{row['trials']:,}", row["precision"], f"{row['epoch_ms']:,.1f}",
         f"{row['us_step_trial']:.3g}", f"{row['compile_s']:.1f}", f"{row['device_MB']:,.0f}",
         f"{row['trial_MB']:.2f}"]
        for row in shown
    ]  # fmt: skip
    header = ["network", "trials", "precision", "ms an epoch", "µs a step and trial",
              "seconds to compile", "MB on the device", "MB a trial, data set apart"]  # fmt: skip
    return markdown_table(header, rows)


def on_cpu(config: str) -> float:
    """Returns µs a step and trial on the CPU of the study of step time, scores included."""
    record = read(CPU, f"{ON_CPU[config]}.json")
    return 1e3 * (record["ms_per_step"] + record["breakdown_ms_per_step"]["evaluation"])


def beside(epochs: dict[str, dict[int, dict]], peer_rows: list[dict]) -> str:
    """Compares the fewest and the most trials with PyTorch on this GPU and the project on a CPU."""
    torch = {row["config"]: row["us_step"] for row in peer_rows if row["peer"] == "torch"}
    rows = []
    for config, found in epochs.items():
        for trials in dict.fromkeys((min(found), max(found))):
            here, cpu = found[trials]["us_step_trial"], on_cpu(config)
            theirs = torch.get(config)
            rows.append([
                NETWORKS[config], f"{trials:,}", f"{here:.3g}",
                *((f"{theirs:,.0f}", f"{theirs / here:,.0f}") if theirs else ("—", "—")),
                f"{cpu:,.0f}", f"{cpu / here:,.0f}",
            ])  # fmt: skip
    cores = read(CPU, "scaling.json")["trials"][-1]["devices"]["cores"]
    header = ["network", "trials", "µs a step and trial", "PyTorch's µs a step", "times as fast",
              f"µs on {cores} CPU cores", "times as fast"]  # fmt: skip
    return markdown_table(header, rows)


def against_peers(record: dict) -> str:
    """Shows the peers of a benchmark, whose rounds are paired."""
    rows = []
    for peer, found in record.get("peers", {}).items():
        times = found["ratio"]
        versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if k == peer)
        extremes = f"({times['min']:.0f} to {times['max']:.0f})"
        step = f"{1e3 * found['ms_per_step']:,.0f}"
        rows.append([versions, step, f"{times['median']:.0f} {extremes}"])
    trials = record.get("trials", 0)
    header = ["peer, one network at a time", "µs a step", f"times as fast, {trials} trials"]
    return markdown_table(header, rows)


def parts(records: list[dict]) -> str:
    """Shows where a step's time goes."""
    rows = []
    for record in filter(None, records):
        step, stages = record["ms_per_step"], record["breakdown_ms_per_step"]
        cells = (f"{1e3 * ms:.3g} ({ms / step:.0%})" for ms in stages.values())
        rows.append([
            f"{record['trials']:,}", f"{1e3 * step:.3g}", *cells,
            f"{record['share_of_peak']:.0%} of {record['matmul_peak_gflops'] / 1e3:.3g}",
        ])  # fmt: skip
    stages = next((r["breakdown_ms_per_step"] for r in records if r), {})
    header = ["trials", "µs a step and trial", *stages, "share of the matmul peak, TFLOP/s"]
    return markdown_table(header, rows)


def tried(epochs: list[dict]) -> str:
    """Compares variants that were tried with the project as it is."""
    rows = []
    for row in epochs:
        if "variant" in row:
            same = plain(epochs, row["precision"])[row["config"]][row["trials"]]
            rows.append([
                row["variant"], f"{NETWORKS[row['config']]}, {row['trials']:,}",
                f"{row['epoch_ms']:,.1f}", f"{same['epoch_ms']:,.1f}",
                f"{row['epoch_ms'] / same['epoch_ms']:.2f}",
                f"{row['trial_MB']:.2f}", f"{same['trial_MB']:.2f}",
            ])  # fmt: skip
    header = ["variant", "network, trials", "ms an epoch", "as it is", "ratio", "MB a trial",
              "as it is"]  # fmt: skip
    return markdown_table(header, rows)


def again(folder: Path, epochs: list[dict], later: Path) -> str:
    """Compares what was measured again, at a later commit, with what there was."""
    rows, commit = [], "a later commit"
    for row in studies.read_rows(later / "epochs.jsonl"):
        before = plain(epochs, row["precision"]).get(row["config"], {}).get(row["trials"], {})
        cells = [f"{NETWORKS[row['config']]}, {row['trials']:,}", row["precision"]]
        for key, digits in (("epoch_ms", 1), ("trial_MB", 2)):
            cells += [f"{x[key]:,.{digits}f}" if x else "—" for x in (before, row)]
        rows.append(cells)
    runs = []
    for name, sweep in SWEEPS.items():
        if after := read(later, f"{name}/summary.json"):
            before = seconds_of(folder, name)
            seconds = after["provenance"]["seconds"]
            trials = sum(point["num_trials"] for point in after["grid"])
            cells = [f"`{sweep.config}.py`, {trials:,} trials{sweep.words}"]
            for phase in ("train", "total"):
                cells += [show_seconds(x[phase]) if x else "—" for x in (before, seconds)]
            runs.append(cells)
            commit = studies.commit_of(after["provenance"])[:7]
    now = f"at {commit}"
    header = ["network, trials", "precision", "ms an epoch", now, "MB a trial", now]
    of_runs = ["seconds", "training", now, "start to report", now]
    return f"{markdown_table(header, rows)}\n\n{markdown_table(of_runs, runs)}"


def compiled(rows: list[dict]) -> str:
    """Compares the programs of two commits, compiled by `compiled.py`; the older come first."""
    if not rows:
        return ""
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["case"], []).append(row)
    cells = []
    for case, (before, *_, after) in found.items():
        _, config, trials = case.split(":")
        numbers = [f"{n:,}" for n in (before["step_operations"], after["step_operations"])]
        for row in (before, after):
            cycles = row["step_cycles"]
            numbers.append(f"{cycles / 1e3:,.0f}" if cycles else "—")
        numbers += [f"{row['trial_MB']:.2f}" for row in (before, after)]
        cells.append([f"{NETWORKS[config]}, {int(trials):,}", before["target"], *numbers])
    before, after = (f"at {row['commit']}" for row in (rows[0], rows[-1]))
    header = ["network, trials", "compiled for", f"operations a step {before}", after,
              f"thousand cycles a step, as expected, {before}", after,
              f"MB a trial {before}", after]  # fmt: skip
    return markdown_table(header, cells)


def describe_records(folder: Path) -> str:
    """Lists commands, records and commits, as Markdown; the machine is that of the last record."""
    noted, rows, records = read(folder, "noted.json"), [], []
    files = [f"benchmark_{n}.json" for n in (15, 1000)] + [f"{n}/summary.json" for n in SWEEPS]
    for file in [*files, *(f"again/{file}" for file in files)]:
        if record := read(folder, file):
            made = record["provenance"]
            commit = f"{noted.get('commit')}, noted by hand"
            if made["commit"]:
                commit = studies.commit_of(made)
            rows.append([f"`{made['command']}`", f"`{file}`", commit])
            records.append(record)
    machine = ""
    if records:
        made = records[-1]["provenance"]
        devices = records[-1].get("devices") or made["devices"]
        machine = f"{devices['count']} {devices['kind']}, {devices['cores']} cores of "
        machine += made["machine"]
    words = f"Machine: {machine}. Versions: {studies.list_versions(*records)}."
    return f"{markdown_table(['command', 'record', 'commit'], rows)}\n\n{words}"


def device_of(folder: Path) -> str:
    """Names what was measured."""
    for name in ("benchmark_15.json", "benchmark_1000.json"):
        if record := read(folder, name):
            return record["devices"]["kind"]
    return "this machine"


def draw(folder: Path, epochs: dict[str, dict[int, dict]], peer_rows: list[dict]) -> Figure:
    """Draws a step's time by the number of trials: on the GPU, on a CPU, and PyTorch's."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    ax = figure.subplots()
    device, scaling = device_of(folder), read(CPU, "scaling.json")
    cores = scaling["trials"][-1]["devices"]["cores"]
    cpu = {"baseline": [(row["trials"], 1e3 * row["ms_per_step"]) for row in scaling["trials"]]}
    for config, file in ON_CPU.items():
        alone = read(CPU, f"{file}.json")
        cpu.setdefault(config, [(alone["trials"], 1e3 * alone["ms_per_step"])])
    for i, (config, network) in enumerate(NETWORKS.items()):
        color = canvas.COLORS[i]
        ax.plot(*zip(*cpu[config], strict=True), "s--", color=color, mfc="white", ms=4.5, lw=1)
        if found := epochs.get(config, {}):
            times = [row["us_step_trial"] for row in found.values()]
            ax.plot(list(found), times, "o-", color=color, ms=5)
            note = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(f"{network}\n{times[-1]:.3g} µs", (max(found), times[-1]), **note,
                        color=color)  # fmt: skip
        for row in peer_rows:
            if (row["config"], row["peer"]) == (config, "torch"):
                ax.plot(1 + 0.12 * (i - 1), row["us_step"], "x", color=color, ms=6, mew=1.6)
    for look, words in (
        ("o-", f"{device}: trained and scored"),
        ("s--", f"{cores} CPU cores: trained"),
        ("x", f"PyTorch on the {device}, one network"),
    ):
        white = {"mfc": "white"} if look[0] == "s" else {}
        ax.plot([], [], look, color="#444444", ms=5, label=words, **white)
    ax.set(xscale="log", yscale="log", xlabel="trials that train at once", xlim=(0.8, 6000),
           ylabel="µs a step and trial")  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:,.5g}")
    ax.legend(fontsize=8, loc="upper right")
    figure.suptitle("Time of a training step by the number of trials")
    return figure


def write_page(folder: Path, size: Size) -> None:
    """Writes the tables and the figure."""
    rows, peer_rows = (
        studies.read_rows(folder / "epochs.jsonl"),
        studies.read_rows(folder / "peers.jsonl"),
    )
    epochs = plain(rows, size.precision)
    benchmarks = [read(folder, f"benchmark_{n}.json") for n in (15, 1000)]
    sections = {
        "whole": whole(folder, epochs),
        "trials": by_trials(rows),
        "beside": beside(epochs, peer_rows),
        "peers": against_peers(benchmarks[0]),
        "parts": parts(benchmarks),
        "tried": tried(rows),
        "compiled": compiled(studies.read_rows(folder / "compiled.jsonl")),
        "again": again(folder, rows, later) if (later := folder / "again").is_dir() else "",
        "record": describe_records(folder),
    }
    page = folder / "README.md"
    if not page.exists():
        marks = (f"<!-- {name} -->\n<!-- end {name} -->\n" for name in sections)
        disk.write_text(page, "\n".join(["![By trials](trials.png)\n", *marks]))
    studies.fill_in(page, sections)
    studies.save_figure(folder / "trials.png", draw, folder, epochs, peer_rows)


def main() -> None:
    """Measures what is missing, then writes the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE, help="where records are kept")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which nothing is begun")
    parser.add_argument("--small", action="store_true", help="on a CPU, on digits")
    given = parser.parse_args()
    if given.small and given.folder == HERE:
        parser.error("--small: its records do not belong to this study; name a folder for them")
    given.folder.mkdir(parents=True, exist_ok=True)
    size = SMALL if given.small else WHOLE
    measure(given.folder, size, given.minutes)
    write_page(given.folder, size)


if __name__ == "__main__":
    main()
