"""Trains an experiment's trials part by part: saved, stoppable, and resumed with the same bits.

A part is what trains together: trials that share a compiled program, as many as memory holds.
After every epoch its rows go to `metrics.jsonl` and its state to a checkpoint; after its last, its
trials go to `results.csv`. So a run that is stopped anywhere knows which parts are done, and goes
on with the next one from its newest good checkpoint.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax import UserError, models, results, sweep
from mnist_jax.checkpoints import Checkpoints
from mnist_jax.data import Dataset
from mnist_jax.experiment import Experiment, static_choices
from mnist_jax.results import PROTOCOLS, Recorder, Row

Part = list[int]  # numbers of trials


class DoesNotFitError(Exception):
    """Memory does not hold the trials of a part, but `most` of them."""

    def __init__(self, most: int):
        """Takes the number of trials that fit."""
        super().__init__(most)
        self.most = most


class Runner:
    """Trains the trials of an experiment that its work directory does not hold yet.

    Attributes:
        rows: Those of `results.csv`, of the trials that are done.
        seconds: Wall-clock time by phase, of all processes that the run took as far as is known.
    """

    def __init__(self, path: Path, experiment: Experiment, dataset: Dataset):
        """Looks at what is done; must come before JAX looks for devices."""
        self._path, self._experiment, self._dataset = path, experiment, dataset
        self._points = experiment.points
        self._names = results.trial_rows(self._points, experiment.seeds, dataset.name)
        self._protocol = PROTOCOLS[experiment.protocol]
        self._parts = self._read_parts()
        most = max(map(len, self._parts))
        sweep.configure_jax(most, experiment.devices, deterministic=experiment.deterministic)
        self._trials = sweep.create_trials(
            self._points, experiment.seeds, len(dataset.train_labels)
        )
        self._epochs_there = results.trim_metrics(
            path, {name["trial"]: name["num_epochs"] for name in self._names}
        )
        self.rows = self._finished_rows()
        self.seconds = {"compile": 0.0, "train": 0.0}

    @property
    def devices(self) -> dict[str, Any]:
        """What runs the trials and how, for the record."""
        most = max(map(len, self._parts))
        return sweep.describe_devices(sweep.devices_for(most, self._experiment.devices))

    def train(self) -> None:
        """Trains what is left.

        Raises:
            SystemExit: A signal came; all is saved.
            UserError: Memory does not hold a single trial.
        """
        with StopSignals() as stop:
            while part := self._next_part():
                try:
                    self._train_part(part, stop)
                except DoesNotFitError as error:
                    self._split(part, error.most)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    self._split(part, len(part) // 2)

    def _next_part(self) -> Part | None:
        done = {row["trial"] for row in self.rows}
        return next((part for part in self._parts if not done.issuperset(part)), None)

    def _point(self, part: Part):
        return self._points[self._names[part[0]]["point"]]

    def _compile(self, part: Part) -> sweep.Sweep:
        choices = static_choices(
            self._experiment, self._point(part), len(self._dataset.class_names)
        )
        program = sweep.compile_sweep(
            trials=jax.tree.map(lambda x: x[np.array(part)], self._trials),
            dataset=self._dataset,
            num_devices=self._experiment.devices,
            **choices,
        )
        self.seconds["compile"] += program.lower_seconds + program.compile_seconds
        if (most := sweep.trials_that_fit(program)) < len(part):
            raise DoesNotFitError(most)
        return program

    def _train_part(self, part: Part, stop: "StopSignals") -> None:
        program = self._compile(part)
        experiment, num_epochs = self._experiment, self._point(part).num_epochs
        names = [self._names[trial] for trial in part]
        axes = results.varying(self._names)
        recorder = Recorder(self._path, names, axes, experiment.protocol)
        folder = self._path / "checkpoints" / f"trials_{part[0]}_to_{part[-1]}"
        keep = experiment.checkpoints_kept
        with Checkpoints(folder, num_trials=len(part), keep=keep) as checkpoints:
            saved = checkpoints.restore(
                program.state, newest=min(self._epochs_there[trial] for trial in part)
            )
            epoch = start = saved.step if saved else 0
            state: Any = saved.state if saved else None
            if saved:
                recorder.columns = {k: np.array(v) for k, v in saved.record["columns"].items()}
                self.seconds["train"] += saved.record["seconds"]
            done = {row["trial"]: row["num_epochs"] for row in self.rows}
            results.trim_metrics(self._path, done | dict.fromkeys(part, start))
            self._say_what_runs(program, len(part), num_epochs, start)
            before, started = self.seconds["train"], time.monotonic()
            epochs = sweep.run(program, num_epochs, start, state)
            epochs = sweep.show_progress(epochs, num_epochs, len(part), start)
            for epoch, (state, metrics) in enumerate(epochs, start=start + 1):
                recorder.add(epoch, metrics)
                self.seconds["train"] = before + time.monotonic() - started
                last = epoch == num_epochs or stop.number is not None
                if last or epoch % experiment.checkpoint_epochs == 0:
                    columns = {name: values.tolist() for name, values in recorder.columns.items()}
                    record = {"columns": columns, "seconds": self.seconds["train"]}
                    checkpoints.save(epoch, state, record, must=last)
                if stop.number is not None:
                    break
        if stop.number is not None:
            go_on = f"the same command with --workdir={self._path} goes on from there"
            print(
                f"stopped after epoch {epoch} of {num_epochs}, and saved: {go_on}", file=sys.stderr
            )
            sys.exit(128 + stop.number)
        scores = sweep.score_test(program, state) if program.score_test else {}
        rows = sorted(self.rows + recorder.rows(scores), key=lambda row: row["trial"])
        chosen = results.choose_trial(rows, experiment.protocol)["trial"]
        if chosen in part:
            examined = sweep.examine(program, state, part.index(chosen))
            results.write_chosen_trial(self._path, chosen, *examined, self._dataset)
        results.write_results(self._path, rows)
        self.rows = rows
        self.seconds["train"] = before + time.monotonic() - started

    def _say_what_runs(
        self, program: sweep.Sweep, num_trials: int, num_epochs: int, start: int
    ) -> None:
        dataset, devices = self._dataset, program.devices
        scored = {
            "test": "val_ is the test set",
            "validation": "val_ is validation images",
            None: "nothing is scored before the end",
        }[self._protocol.held_out]
        print(models.layer_table(program.recipe.model))
        print(
            f"{dataset.name} ({dataset.source}): {len(dataset.train_labels)} training images;"
            f" {scored}"
        )
        size = f"{results.count(num_trials, 'trial')} of {results.count(num_epochs, 'epoch')}"
        where = results.count(devices["count"], f"{devices['kind']} device")
        print(f"{size} on {where}" + f", going on after epoch {start}" * bool(start), flush=True)

    # --- what is done, and how the trials are parted ---

    def _finished_rows(self) -> list[Row]:
        """Returns the rows of the first parts that are done, as far as all their rows are there."""
        rows = {row["trial"]: row for row in results.read_results(self._path, self._names)}
        finished: list[Row] = []
        for part in self._parts:
            for trial in part:
                whole = self._epochs_there[trial] == self._names[trial]["num_epochs"]
                if not (trial in rows and whole):
                    return finished
            finished = sorted(finished + [rows[t] for t in part], key=lambda row: row["trial"])
        return finished

    def _read_parts(self) -> list[Part]:
        """Returns the parts as they were split before, or else one for each program."""
        with_program: dict[tuple, Part] = {}
        for name in self._names:
            with_program.setdefault(self._points[name["point"]].static, []).append(name["trial"])
        try:
            parts = json.loads((self._path / "checkpoints" / "parts.json").read_text())
            if sorted(trial for part in parts for trial in part) == [
                name["trial"] for name in self._names
            ]:
                return parts
        except (OSError, ValueError, TypeError):
            pass
        return list(with_program.values())

    def _split(self, part: Part, size: int) -> None:
        """Replaces a part by parts of a size that memory holds."""
        if len(part) == 1:
            raise UserError(
                "the memory of a device does not hold a single trial; give a smaller network"
            )
        pieces = [part[i : i + size] for i in range(0, len(part), size)]
        print(f"memory does not hold {len(part)} trials: {len(pieces)} parts, one after the other")
        place = self._parts.index(part)
        self._parts[place : place + 1] = pieces
        (self._path / "checkpoints").mkdir(exist_ok=True)
        results.write_text(self._path / "checkpoints" / "parts.json", json.dumps(self._parts))


class StopSignals:
    """Makes the first SIGTERM or Ctrl-C a wish to stop; the second ends the process at once.

    A program call may keep the main thread for a long time, in which Python's handlers must wait.
    So a thread reads the signals where the interpreter notes them the moment they come.

    Attributes:
        number: The signal that came first, or None.
    """

    def __init__(self) -> None:
        """Waits for nothing yet."""
        self.number: int | None = None

    def __enter__(self) -> "StopSignals":
        """Starts to listen."""
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Restores what was before."""
        signal.set_wakeup_fd(self._old_writer)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        os.close(self._writer)  # which ends the thread

    def _listen(self) -> None:
        while byte := os.read(self._reader, 1):
            if (number := byte[0]) not in self._old:
                continue
            if self.number is not None:
                os._exit(128 + number)
            self.number = number
            print("stopping after this epoch; once more stops at once", file=sys.stderr, flush=True)
        os.close(self._reader)
