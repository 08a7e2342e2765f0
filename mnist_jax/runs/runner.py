"""Trains an experiment's trials part by part: saved, stoppable, and resumed with the same bits.

A part is what trains together: trials that share a compiled program, as many as memory holds.
After every epoch its rows go to `metrics.jsonl` and its state to a checkpoint; after its last, its
trials go to `results.csv`. So a run that is stopped anywhere knows which parts are done, and goes
on with the next one from its newest good checkpoint.
"""

import itertools
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax import UserError, disk, run_files
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.old_records import axes_of
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.data.loading import Dataset, image_shape
from mnist_jax.runs import choosing, chosen_trial, labels, records, workdirs
from mnist_jax.runs.checkpoints import MANIFEST, Checkpoints
from mnist_jax.runs.progress import show_progress
from mnist_jax.runs.provenance import Process
from mnist_jax.runs.records import Recorder, Row
from mnist_jax.runs.signals import StopSignals
from mnist_jax.training import hosts, memory, networks, recipes, sweep
from mnist_jax.training.devices import describe_devices, devices_for, what_runs

Part = list[int]  # numbers of trials
LONG = 1.0
"""Seconds of an epoch from which a signal ends the run right after it; of shorter ones, the next
runs already, and ends too."""


class DoesNotFitError(Exception):
    """Memory does not hold the trials of a part, but `most` of them, if any."""

    def __init__(self, most: int):
        """Takes the number of trials that fit."""
        super().__init__(most)
        self.most = most


class Runner:
    """Trains the trials of an experiment that its work directory does not hold yet.

    In a job of several processes, each has a part of every trial axis; the first one alone looks at
    the work directory and writes there, and tells the others what it found.

    Attributes:
        rows: Those of `results.csv`, of the trials that are done.
    """

    def __init__(
        self,
        path: Path,
        experiment: Experiment,
        dataset: Dataset,
        process: Process | None = None,
        record: Row | None = None,
    ):
        """Touches nothing yet; `record` is what `config.json` says, or will say."""
        self._path, self._experiment, self._dataset = path, experiment, dataset
        self._record = record or experiment.record()
        self._names = records.trial_rows(
            experiment.points, experiment.seeds, dataset.name, self._record
        )
        self._protocol = PROTOCOLS[experiment.protocol]
        self._parts = list(experiment.parts.values())
        self._epochs_there: dict[int, int] = {}
        self._taken_up: set[int] = set()
        self.rows: list[Row] = []
        self._table = ""
        self._process = process or Process()
        self._seconds = self._process.seconds

    @property
    def devices(self) -> dict[str, Any]:
        """What runs the trials and how, for the record."""
        most = max(map(len, self._parts))
        return describe_devices(devices_for(most, self._experiment.devices))

    def rehearse(self) -> None:
        """Compiles what `train` does of a new run, before an old one is deleted for it.

        The cache keeps the programs, so that this takes little more time in all.

        Raises:
            UserError: Memory does not hold a single trial.
        """
        for part in self._parts:
            try:
                self._compile(part)
            except _TOO_LARGE as error:
                _pieces(part, error)

    def train(self) -> None:
        """Trains what the work directory does not hold.

        Raises:
            SystemExit: A signal came; all is saved.
            UserError: Memory does not hold a single trial.
        """
        self._parts, epochs_there, self.rows = hosts.first(self._read_what_is_done)
        self._epochs_there = dict(epochs_there)
        with StopSignals() as stop:
            while part := self._next_part():
                try:
                    self._train_part(part, stop)
                except _TOO_LARGE as error:
                    self._split(part, _pieces(part, error))

    def _next_part(self) -> Part | None:
        """Returns a part that is not done, or at last the one whose weights are missing.

        Where memory cuts a grid point in two, the choice may fall back to a trial of a part before.
        """
        done = {row["trial"] for row in self.rows}
        if part := next((part for part in self._parts if not done.issuperset(part)), None):
            return part
        chosen = self._choose(self.rows)
        if hosts.first(lambda: chosen_trial.trial_of_weights(self._path)) == chosen:
            return None
        if chosen in self._taken_up:
            said = f"the weights of trial {chosen} cannot be read back; the report lacks them"
            print(f"warning: {said}", file=sys.stderr, flush=True)
            return None
        self._taken_up.add(chosen)
        print(f"the weights of trial {chosen}, which is chosen in the end, are taken up again")
        return next(part for part in self._parts if chosen in part)

    def _choose(self, rows: Sequence[Row]) -> int:
        return choosing.choose_trial(rows, self._experiment.protocol)["trial"]

    def _compile(self, part: Part) -> sweep.Sweep:
        dataset, devices = self._dataset, self._experiment.devices
        shape, num_classes = image_shape(dataset.train_images), len(dataset.class_names)
        recipe, trials = recipes.create_recipe(
            self._experiment, part, len(dataset.train_labels), shape, num_classes
        )
        program = hosts.together(
            lambda: sweep.compile_sweep(recipe, trials, dataset, num_devices=devices)
        )
        self._seconds["compile"] += program.lower_seconds + program.compile_seconds
        if (most := memory.trials_that_fit(program)) < len(part):
            raise DoesNotFitError(most)
        return program

    def _train_part(self, part: Part, stop: StopSignals) -> None:
        program = self._compile(part)
        experiment = self._experiment
        num_epochs: int = self._experiment.point_of(part[0])["num_epochs"]
        names = [self._names[trial] for trial in part]
        axes = labels.varying(self._names)
        path = self._path if hosts.is_first() else None
        recorder = Recorder(path, names, axes, experiment.protocol, experiment.metrics)
        folder, kept = checkpoint_folder(self._path, part), experiment.checkpoints_kept
        epoch_seconds = math.inf
        run = workdirs.digest(self._record, self._dataset.checksum)
        with Checkpoints(folder, run=run, num_trials=len(part), keep=kept) as checkpoints:

            def settle() -> None:
                if epoch_seconds <= LONG:
                    time.sleep(3 * LONG)  # by then the run has ended by itself
                checkpoints.finish()

            stop.before_exit = settle
            saved = checkpoints.restore(
                program.state, newest=min(self._epochs_there[trial] for trial in part)
            )
            epoch = start = saved.step if saved else 0
            state: Any = saved.state if saved else None
            if saved:
                recorder.columns = {k: np.array(v) for k, v in saved.record["columns"].items()}
                if "seconds" in saved.record:  # of a run that is older than what processes note
                    self._process.note_earlier(saved.record["seconds"])
            # Not for every part: it reads the rows of all.
            if hosts.is_first() and any(self._epochs_there[trial] > start for trial in part):
                records.trim_metrics(self._path, self._epochs_there | dict.fromkeys(part, start))
            self._say_what_runs(program, len(part), num_epochs, start)
            before, started = self._seconds["train"], time.monotonic()
            ended, due, signal_number = started, 0, 0

            def keep(epoch: int) -> bool:
                nonlocal due
                in_turn = epoch % experiment.checkpoint_epochs == 0
                due = in_turn and checkpoints.ready(epoch_seconds)
                due, wanted = hosts.agree([due, stop.number or epoch_seconds > LONG])
                return bool(due or wanted)

            epochs = sweep.run(program, num_epochs, start, state, keep)
            epochs = show_progress(epochs, num_epochs, start)
            for epoch, (state, metrics) in enumerate(epochs, start=start + 1):
                recorder.add(epoch, metrics)
                now = time.monotonic()
                epoch_seconds, ended = now - ended, now
                self._seconds["train"] = before + now - started
                if state is None:
                    continue
                (signal_number,) = hosts.agree([stop.number])
                if due or signal_number or epoch == num_epochs:
                    columns = {name: values.tolist() for name, values in recorder.columns.items()}
                    recorder.sync()
                    self._process.note()
                    checkpoints.save(epoch, state, {"columns": columns})
                if signal_number:
                    break
        if signal_number:
            go_on = workdirs.how_to_go_on(self._path)
            print(
                f"stopped after epoch {epoch} of {num_epochs}, and saved: {go_on}", file=sys.stderr
            )
            sys.exit(128 + signal_number)
        scores = sweep.score_test(program, state) if program.score_test else {}
        others = [row for row in self.rows if row["trial"] not in part]
        rows = sorted(others + recorder.rows(scores), key=lambda row: row["trial"])
        chosen = self._choose(rows)
        weights = sweep.chosen_weights(state, part.index(chosen)) if chosen in part else None
        if hosts.is_first():
            if weights is not None:
                recipe, dataset = program.recipe, self._dataset
                hyper = sweep.trial_of(program.trials, part.index(chosen))
                seen = sweep.predict(recipe, hyper, weights, dataset.test_images)
                first = recipe.network.first_kernel
                chosen_trial.write_chosen_trial(self._path, chosen, weights, seen, dataset, first)
            self._seconds["train"] = before + time.monotonic() - started
            self._process.note()
            records.write_results(self._path, rows)
        self.rows = rows
        self._epochs_there |= dict.fromkeys(part, num_epochs)

    def _say_what_runs(
        self, program: sweep.Sweep, num_trials: int, num_epochs: int, start: int
    ) -> None:
        dataset = self._dataset
        scored = {
            "test": "val_ is the test set",
            "validation": "val_ is validation images",
            None: "nothing is scored before the end",
        }[self._protocol.held_out]
        print(what_runs(program.devices, self._experiment.platform))
        network = program.recipe.network
        if (table := networks.layer_table(network)) != self._table:
            self._table = table
            print(table)
            if network.plain_conv and program.devices["platform"] == "cpu":
                print(
                    "nn.Conv is slow in a compiled loop on a CPU: Conv, max_pool and avg_pool of"
                    " mnist_jax.layers take the same arguments and are several times as fast"
                )
        print(
            f"{dataset.name} ({dataset.source}): {len(dataset.train_labels)} training images;"
            f" {scored}"
        )
        size = f"{labels.count(num_trials, 'trial')} of {labels.count(num_epochs, 'epoch')}"
        print(size + f", going on after epoch {start}" * bool(start), flush=True)

    # --- what is done, and how the trials are parted ---

    def _read_what_is_done(self) -> list[Any]:
        """Returns the parts, the epochs that are there by trial, and the rows of finished parts."""
        epochs = {name["trial"]: name["num_epochs"] for name in self._names}
        parts = read_parts(self._path, self._experiment)
        there = records.trim_metrics(self._path, epochs)
        columns = records.columns_of(
            self._experiment.protocol, axes_of(self._record), self._experiment.metrics
        )
        found = records.read_results(self._path, self._names, columns)
        rows = {row["trial"]: row for row in found}
        saved: dict[int, int] = {}
        for part in parts:
            saved |= dict.fromkeys(part, _newest_epoch(self._path, part))
        known = {trial: n if trial in rows else saved.get(trial, 0) for trial, n in epochs.items()}
        if short := [trial for trial in known if there[trial] < known[trial]]:
            print(
                f"warning: {self._path / 'metrics.jsonl'} was lost or cut: it holds "
                f"{there[short[0]]} of {labels.count(known[short[0]], 'epoch')} that trial "
                f"{short[0]} had done{', and less of others' * (len(short) > 1)}; what is missing "
                "is trained again",
                file=sys.stderr,
                flush=True,
            )
        finished: list[Row] = []
        for part in parts:
            if all(trial in rows and there[trial] == epochs[trial] for trial in part):
                finished += [rows[trial] for trial in part]
        return [parts, list(there.items()), sorted(finished, key=lambda row: row["trial"])]

    def _split(self, part: Part, pieces: list[Part]) -> None:
        """Replaces a part by parts that memory holds."""
        print(f"memory does not hold {len(part)} trials: {len(pieces)} parts, one after the other")
        place = self._parts.index(part)
        self._parts[place : place + 1] = pieces
        self._epochs_there |= dict.fromkeys(part, 0)  # of which they have no checkpoint
        if hosts.is_first():
            (self._path / "checkpoints").mkdir(exist_ok=True)
            disk.write_text(self._path / "checkpoints" / "parts.json", json.dumps(self._parts))
            records.trim_metrics(self._path, self._epochs_there)


_TOO_LARGE = (DoesNotFitError, hosts.OutOfMemoryError, jax.errors.JaxRuntimeError)


def _pieces(part: Part, error: Exception) -> list[Part]:
    """Divides a part that was too large for memory.

    Raises:
        UserError: Memory does not hold a single trial.
        JaxRuntimeError: The error says something else.
    """
    if isinstance(error, DoesNotFitError):
        size = error.most
    elif hosts.is_out_of_memory(error):
        size = len(part) // 2
    else:
        raise error
    num_pieces = -(-len(part) // max(size, 1))
    if not size or len(part) // num_pieces < jax.process_count():
        raise UserError(
            "the memory of a device does not hold a single trial; give a smaller network, or more "
            "memory"
        )
    return [piece.tolist() for piece in np.array_split(part, num_pieces)]


def read_parts(workdir: Path, experiment: Experiment) -> list[Part]:
    """Returns a run's parts: one for each program, or as memory made it split them.

    Whatever else `parts.json` holds costs a line.
    """
    parts, path = list(experiment.parts.values()), workdir / "checkpoints" / "parts.json"
    reason = "it does not hold the run's trials in pieces that train together"
    try:
        if _are_pieces(found := run_files.read_json(path, [[int]]), parts):
            return found
    except run_files.BadFileError as error:
        if error.missing:
            return parts
        reason = str(error)
    print(f"warning: {path} is left aside ({reason})", file=sys.stderr, flush=True)
    return parts


def _are_pieces(found: list[Part], parts: list[Part]) -> bool:
    """Says whether each of the lists found is a piece of a part, and all are there in their order.

    A piece that went over the end of a part would train with a program that is not its own.
    """
    ends, wanted = (set(itertools.accumulate(map(len, x))) for x in (found, parts))
    same = list(itertools.chain(*found)) == list(itertools.chain(*parts))
    return same and wanted <= ends and all(found)


def _newest_epoch(workdir: Path, part: Part) -> int:
    """Returns the epoch of the newest checkpoint of a part that was finished, or 0."""
    manifests = checkpoint_folder(workdir, part).glob(f"*/{MANIFEST}")
    names = [manifest.parent.name for manifest in manifests]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def checkpoint_folder(workdir: Path, part: Part) -> Path:
    """Returns where the checkpoints of a part lie."""
    return workdir / "checkpoints" / f"trials_{part[0]}_to_{part[-1]}"
