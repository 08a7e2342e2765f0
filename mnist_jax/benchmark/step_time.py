"""How fast a training step is here, where its time goes, and how fast others are.

In a round every implementation trains one epoch, ours and each peer, one at a time on the machine.
A first epoch warms up and is not counted. Numbers are medians over the rounds, with their extremes.
A peer is compared with ours within a round, since a machine's speed drifts. An epoch of more work
than `stages.WORK_PER_ROUND` is cut: then all train on the first part of the images.

A CPU times one trial for each of its cores, as a sweep keeps them busy; a GPU or TPU times the
config's own trials together, at least one a device. Trials are chosen evenly from those of the
config's first compiled program. The peers train its first one. Progress goes to the error stream,
the table to the output.
"""

import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mnist_jax import UserError
from mnist_jax.benchmark.peers import compare_peers, peer_lines, start_peers
from mnist_jax.benchmark.rounds import Epoch, run_rounds, say, with_extremes
from mnist_jax.config.experiment import Experiment
from mnist_jax.data.datasets import num_batches
from mnist_jax.data.splits import Dataset
from mnist_jax.runs.provenance import provenance
from mnist_jax.text import text_table

STAGES = {
    "gather": "input gather",
    "forward": "forward",
    "backward": "backward",  # and augmentation, where there is one
    "update": "update",
    "dispatch": "dispatch",
    "evaluation": "+ evaluation, an epoch's",
    "shuffle": "+ shuffle on the host",
}
"""Where time goes, in the table's words; the first five make `ms_per_step`, the rest is on top."""


def measure(
    experiment: Experiment,
    dataset: Dataset,
    *,
    peers: Sequence[str],
    rounds: int,
    profile: Path | None,
) -> dict[str, Any]:
    """Times all implementations; returns the record that `--json` writes.

    Of each implementation, ours and the peers named, `rounds` epochs are timed. A profiler's trace
    goes to the folder `profile`, if there is one.

    Raises:
        UserError: The loss of ours does not fall with these hyper-parameters.
    """
    from mnist_jax.benchmark.matmul_peak import matmul_timer
    from mnist_jax.benchmark.stages import TimedSweep, breakdown

    origin = provenance()  # now: the checkout may change in the meantime
    load_average = os.getloadavg()[0]
    environment = dict(os.environ)  # of peers; ours prepares its devices through variables
    point = experiment.points[0]
    ours = TimedSweep(experiment, dataset)
    batch_size = point["batch_size"]
    num_images, epoch_images = len(ours.dataset.train_labels), len(dataset.train_labels)
    steps, epoch_steps = (num_batches(n, batch_size) for n in (num_images, epoch_images))
    devices = ours.sweep.devices
    say(
        f"compiled in {ours.sweep.compile_seconds:.1f} s; a round is {steps} of an epoch's"
        f" {epoch_steps} steps in {ours.num_trials} trials on {devices['count']} {devices['kind']}"
    )
    if load_average > devices["cores"] / 2:
        say(f"load average {load_average:.1f}: other programs take part of the machine's speed")
    on_cpu = devices["platform"] == "cpu"
    squares = [(n, n, n) for n in ((512, 1024) if on_cpu else (4096, 8192))]
    time_matmul = matmul_timer(
        squares + ours.shapes, 2e9 if on_cpu else 2e12, ours.devices, ours.options
    )
    peaks, stages = [], []

    def train_ours() -> Epoch:
        peaks.append(time_matmul())
        seconds, loss = ours.time_round(epoch_images)
        stages.append(breakdown(seconds, steps * ours.num_trials, epoch_steps * ours.num_trials))
        return Epoch(seconds["training"], steps * ours.num_trials, loss)

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running, missing = start_peers(
            peers,
            point,
            ours.dataset,
            folder,
            environment,
            devices["platform"],
            experiment.precision,
        )
        for peer in running.values():
            stack.callback(peer.close)
        trainers = {"ours": train_ours} | {name: p.train_epoch for name, p in running.items()}
        timings, left_out = run_rounds(trainers, rounds)
    if "ours" in left_out:
        raise UserError(
            f"--config.learning_rate={point['learning_rate']}: {left_out['ours']}; choose another"
        )
    if profile:
        ours.trace(profile)

    our_ms = timings["ours"].ms[1:]
    images_per_second = [1e3 * num_images / (steps * ms) for ms in our_ms]
    steps_per_second = statistics.median(images_per_second) / batch_size
    gflops, peak = ours.flop * steps_per_second / 1e9, max(peaks)
    return {
        "config": experiment.record(),
        **with_extremes("ms_per_step", our_ms),
        **with_extremes("images_per_second", images_per_second),
        "gflops": gflops,
        "matmul_peak_gflops": peak,
        "share_of_peak": gflops / peak,
        "mflop_per_step": ours.flop / 1e6,
        "lower_seconds": ours.sweep.lower_seconds,
        "compile_seconds": ours.sweep.compile_seconds,
        "breakdown_ms_per_step": {
            name: statistics.median(stage[name] for stage in stages[1:]) for name in stages[0]
        },
        "peers": compare_peers(running, timings),
        "peers_left_out": missing | left_out,
        "rounds": {name: t._asdict() for name, t in timings.items()},
        "trials": ours.num_trials,
        "steps_per_round": steps,
        "steps_per_epoch": epoch_steps,
        "devices": devices,
        "load_average": load_average,
        "provenance": {**origin, "data_checksum": dataset.checksum},
    }


def table(record: Mapping[str, Any]) -> str:
    """Returns the result for a terminal."""
    r, devices = record, record["devices"]
    stages = r["breakdown_ms_per_step"]
    lines = [
        f"{r['trials']} trials on {devices['count']} {devices['platform']} devices"
        f" ({devices['kind']}, {devices['cores']} cores, threads {devices['threads']}),"
        f" matmul precision {devices['matmul_precision']}",
        f"{r['mflop_per_step']:.1f} MFLOP a step if computed plainly; {r['steps_per_round']} of"
        f" {r['steps_per_epoch']} steps a round; load average {r['load_average']:.1f} before",
        f"{r['gflops']:.1f} GFLOP/s, {r['share_of_peak']:.0%} of the"
        f" {r['matmul_peak_gflops']:.1f} that matrix products reach;"
        f" {r['lower_seconds']:.2f} seconds to lower, {r['compile_seconds']:.2f} to compile",
    ]
    speed = [
        [what, *(format(r[f"{name}{which}"], style) for which in ("", "_min", "_max"))]
        for what, name, style in (
            ("ms a step and trial", "ms_per_step", ",.3f"),
            ("images a second, all trials", "images_per_second", ",.0f"),
        )
    ]
    parts = [
        [STAGES[name], f"{ms:.4f}", f"{ms / r['ms_per_step']:.1%}"] for name, ms in stages.items()
    ]
    tables = [
        text_table(("", "median", "min", "max"), speed),
        text_table(("where a step goes", "ms", "of a step"), parts),
    ]
    return "\n\n".join(["\n".join(lines), *tables, *peer_lines(r["peers"], r["peers_left_out"])])
