"""Times a step of each network and of its peers, a step by the number of trials, and whole runs.

    pip install -e '.[bench]' && python experiments/step_time/make.py [--rounds=N]

Writes a JSON record of each measurement, the tables of README.md between its markers, and charts.
It wants a quiet machine; a record that is there already is kept.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from mnist_jax import disk
from mnist_jax.report.figures import canvas
from mnist_jax.report.render import markdown_table
from mnist_jax.runs import results
from mnist_jax.runs.provenance import provenance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where studies.py is
import studies

HERE = Path(os.path.relpath(Path(__file__).parent))
NETWORKS = {"baseline": "MLP 784-64-64-10", "mlp": "MLP 784-500-300-10", "cnn": "CNN"}
PEERS = {"keras": "Keras", "torch": "PyTorch", "flax": "Flax, a call a batch"}
MORE_PEERS = {"keras": "Keras", "keras-jax": "Keras on JAX", **PEERS}
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def benchmark(name: str, config: str, *arguments: str) -> dict:
    """Benchmarks a network, unless the record exists; returns the record."""
    file = HERE / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        studies.run("benchmark", f"--config=configs/{config}.py", *arguments, f"--json={file}")
    return studies.read_record(file)


def measure_once(name: str, measure: Callable[[], dict]) -> dict:
    """Measures and records, unless the record exists; returns the record."""
    file = HERE / f"{name}.json"
    if not file.exists():
        disk.write_text(file, disk.to_json(measure(), indent=2) + "\n")
    return studies.read_record(file)


def time_starts() -> dict:
    """Times `baseline.py` from the start of the process to its first epoch, cold and warm.

    Cold means that neither data nor compiled programs are in the cache (files are in the memory of
    the operating system); warm repeats it. Both read the data from MNIST_JAX_DATA_DIR.
    """
    record: dict = {"seconds": {"cold": [], "warm": []}, "provenance": provenance()}
    for _ in range(3):
        folder = tempfile.mkdtemp()
        for kind in ("cold", "warm"):
            workdir = Path(folder, kind)
            start = time.time()
            options = ("--config=configs/baseline.py", "--config.num_epochs=1")
            cache = os.path.join(folder, "cache")
            studies.run("main", *options, f"--workdir={workdir}", MNIST_JAX_CACHE_DIR=cache)
            epoch_ended = (workdir / "metrics.jsonl").stat().st_mtime
            record["seconds"][kind].append(epoch_ended - start)
        shutil.rmtree(folder)
    return record


def time_sweep() -> dict:
    """Times `l2_sweep.py` from process start to report, 4 of its 40 epochs, and its memory.

    The parts that do not grow with the epochs weigh more in 4 than in 40.
    """
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = os.path.relpath(name)
        options = ("--config=configs/l2_sweep.py", "--config.num_epochs=4", f"--workdir={folder}")
        start = time.time()
        process = subprocess.Popen([sys.executable, "-m", "mnist_jax.main", *options])
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.time() - start
        if status:
            raise SystemExit(f"the sweep ended with status {status}")
        run = results.read_run(folder)
    kilobytes = usage.ru_maxrss  # as Linux counts
    return {
        "seconds": seconds,
        "peak_memory_gib": kilobytes / 2**20,
        "provenance": run.summary["provenance"],
    }


def steps(records: dict[str, dict], peers: dict[str, str]) -> str:
    """Compares the steps with those of peers."""
    rows = []
    for name, record in records.items():
        cells = [NETWORKS[name], f"{record['ms_per_step']:.3f}"]
        for peer in peers:
            times = record["peers"][peer]["ratio"]
            cells.append(f"{times['median']:.1f} ({times['min']:.1f} to {times['max']:.1f})")
        cells.append(f"{record['share_of_peak']:.0%} of {record['matmul_peak_gflops']:.0f}")
        rows.append(cells)
    header = ["", "ms a step and trial", *(f"times as fast as {p}" for p in peers.values()),
              "share of the matmul peak, GFLOP/s"]  # fmt: skip
    return markdown_table(header, rows)


def breakdown(records: dict[str, dict]) -> str:
    """Shows where a step's time goes."""
    stages = next(iter(records.values()))["breakdown_ms_per_step"]
    rows = [
        [NETWORKS[name], *(f"{record['breakdown_ms_per_step'][stage]:.3f}" for stage in stages)]
        for name, record in records.items()
    ]
    return markdown_table(["ms a step and trial", *stages], rows)


def whole(start: dict, sweep: dict, mlp: dict) -> str:
    """Shows whole runs."""
    keras = mlp["peers"]["keras"]["ms_per_step"] * mlp["steps_per_epoch"] * 4 * 15 / 1e3
    rows = [
        [f"process start to the end of the first MNIST epoch, {kind} caches",
         f"{sorted(values)[1]:.1f} s ({min(values):.1f} to {max(values):.1f}, n = {len(values)})"]
        for kind, values in start["seconds"].items()
    ]  # fmt: skip
    rows += [
        ["`l2_sweep.py` with 4 epochs, process start to report", f"{sweep['seconds']:.0f} s"],
        [
            "the training steps alone of 15 Keras fits of 4 epochs, by their time a step",
            f"{keras:.0f} s",
        ],
        ["ratio of the two", f"{keras / sweep['seconds']:.1f}"],
        ["peak memory of the `l2_sweep.py` process", f"{sweep['peak_memory_gib']:.2f} GiB"],
    ]
    return markdown_table(["", ""], rows)


def scaling(record: dict) -> str:
    """Shows a step's time and the memory by the number of trials, and says how they change."""
    rows = []
    for row in record["trials"]:
        low, high = row["ms_per_step_min"], row["ms_per_step_max"]
        memory = row["memory"]
        rows.append([
            str(row["trials"]),
            f"{row['ms_per_step']:.3f} ({low:.3f} to {high:.3f})",
            f"{row['images_per_second']:,.0f}",
            f"{row['compile_seconds']:.1f}",
            f"{memory['device_bytes'] / 1e6:,.1f}",
            f"{memory['trial_bytes'] / 1e6:.2f}",
        ])  # fmt: skip
    header = ["trials", "ms a step and trial", "images a second, all trials", "seconds to compile",
              "MB a device", "MB a trial, data set apart"]  # fmt: skip
    first, *_, last = record["trials"]
    cores = last["devices"]["cores"]
    busy = [row for row in record["trials"] if row["trials"] >= cores]
    times = [row["ms_per_step"] for row in busy]
    state = last["memory"]["state_bytes"]
    alone, among = (row["memory"]["trial_bytes"] for row in (first, last))
    words = (
        f"With a trial or more for each of the {cores} cores, a trial's step takes"
        f" {min(times):.3f} to {max(times):.3f} ms in the median, and among {last['trials']} trials"
        f" {times[-1] / times[0]:.2f} times as long as among {busy[0]['trials']}. A trial alone has"
        f" all cores, and takes {first['ms_per_step']:.3f} ms. Beside the data set a trial takes"
        f" {alone / 1e6:.2f} MB alone and {among / 1e6:.2f} MB among {last['trials']}, which is"
        f" {among / state:.1f} times its state of {state / 1e6:.2f} MB."
    )
    table = markdown_table(header, rows)
    return f"{table}\n\n{textwrap.fill(words, 100)}"


def describe_records(records: dict[str, dict]) -> str:
    """Lists commands, commits and loads of records, as Markdown; the machine is that of `mlp`."""
    rows = []
    for record in records.values():
        made, load = record["provenance"], record.get("load_average")
        load_words = "—" if load is None else f"{load:.1f}"
        rows.append([f"`{made['command']}`", studies.commit_of(made), load_words])
    mlp = records["mlp"]
    machine = (
        f"Machine: {mlp['devices']['cores']} cores of {mlp['provenance']['machine']}."
        f" Versions: {studies.list_versions(mlp)}."
    )
    return f"{markdown_table(['command', 'commit', 'load average before'], rows)}\n\n{machine}"


def draw_steps(records: dict[str, dict]) -> Figure:
    """Draws how many times as fast a step is here as in each peer."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    ax = figure.subplots()
    for i, (peer, label) in enumerate(PEERS.items()):
        ratios = [record["peers"][peer]["ratio"] for record in records.values()]
        middle = [r["median"] for r in ratios]
        below = [r["median"] - r["min"] for r in ratios]
        above = [r["max"] - r["median"] for r in ratios]
        places = [j + 0.27 * (i - 1) for j in range(len(records))]
        look = {"color": canvas.COLORS[i], "error_kw": {"lw": 0.8}, "capsize": 2}
        bars = ax.bar(places, middle, 0.25, yerr=[below, above], label=label, **look)
        ax.bar_label(bars, [f"{m:.1f}" for m in middle], padding=2)
    ax.axhline(1, color="black", lw=0.8)
    ax.set_xticks(range(len(records)), [NETWORKS[name] for name in records])
    ax.set_ylabel("times as fast (1: no faster)")
    ax.grid(visible=False, axis="x")
    ax.set_axisbelow(True)
    ax.legend()
    cores = records["mlp"]["devices"]["cores"]
    figure.suptitle(f"A training step here against its peers, {cores} CPU cores")
    return figure


def draw_scaling(record: dict) -> Figure:
    """Draws a step's time and the memory of a trial by the number of trials."""
    rows = record["trials"]
    numbers = [row["trials"] for row in rows]
    memory = [row["memory"] for row in rows]
    cores = rows[-1]["devices"]["cores"]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    middle = [row["ms_per_step"] for row in rows]
    below = [row["ms_per_step"] - row["ms_per_step_min"] for row in rows]
    above = [row["ms_per_step_max"] - row["ms_per_step"] for row in rows]
    look = {"color": canvas.COLORS[0], "marker": "o", "ms": 4}
    left.errorbar(numbers, middle, [below, above], **look, elinewidth=0.8, capsize=2)
    left.set(title="Time of a step and trial", ylabel="ms (median, min to max)", ylim=(0, None))
    right.plot(numbers, [m["trial_bytes"] / 1e6 for m in memory], **look)
    for name, words in (("state_bytes", "its state"), ("parameter_bytes", "its parameters")):
        height = memory[-1][name] / 1e6
        right.axhline(height, color="black", lw=0.8, ls="--")
        note = {"xytext": (0, 3), "textcoords": "offset points", "ha": "right"}
        space = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        right.annotate(words, (numbers[-1], height), **note, bbox=space)
    right.set(title="Memory of a trial, data set apart", ylabel="MB", ylim=(0, None))
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        ax.set_xticks(numbers, map(str, numbers))
        ax.set_xlabel("trials that train at once")
    figure.suptitle(f"{NETWORKS['baseline']} by the number of trials, {cores} CPU cores")
    return figure


def main() -> None:
    """Measures what is missing, then writes the study's tables and charts."""
    peers = f"--peers={','.join(PEERS)}"
    records = {name: benchmark(name, name, peers, *sys.argv[1:]) for name in NETWORKS}
    more = f"--peers={','.join(MORE_PEERS)}"
    again = {name: benchmark(f"again/{name}", name, more, *sys.argv[1:]) for name in NETWORKS}
    trials = f"--trials={','.join(map(str, NUMBERS))}"
    by_trials = benchmark("scaling", "baseline", trials, *sys.argv[1:])
    start, sweep = measure_once("start", time_starts), measure_once("l2_sweep", time_sweep)
    sections = {
        "steps": steps(records, PEERS),
        "again": steps(again, MORE_PEERS),
        "whole": whole(start, sweep, records["mlp"]),
        "breakdown": breakdown(records),
        "scaling": scaling(by_trials),
        "record": describe_records(
            records
            | {"scaling": by_trials, "start": start, "l2_sweep": sweep}
            | {f"again_{name}": record for name, record in again.items()}
        ),
    }
    studies.fill_in(HERE / "README.md", sections)
    studies.save_figure(HERE / "step_time.png", draw_steps, records)
    studies.save_figure(HERE / "scaling.png", draw_scaling, by_trials)


if __name__ == "__main__":
    main()
