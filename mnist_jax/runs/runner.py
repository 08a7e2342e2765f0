"""Trains an experiment's trials group by group: saved, stoppable, and resumed with the same bits.

After every epoch of a group its rows go to `metrics.jsonl` and its state to a checkpoint; after the
last one, its trials go to `results.csv`. So a run that is stopped anywhere knows which groups are
done, and resumes with the next one from its newest good checkpoint. With halving, it does so in
stages: the groups of one train up to a rung, and those of the next are what goes on.
"""

import functools
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mnist_jax.config.experiment import Experiment
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.data.datasets import is_path
from mnist_jax.data.splits import Dataset
from mnist_jax.runs import (
    choosing,
    chosen_trial,
    groups,
    kept_states,
    labels,
    ordering,
    records,
    weights,
    workdirs,
)
from mnist_jax.runs.checkpoints import Checkpoints
from mnist_jax.runs.done import read_done, saved_epoch
from mnist_jax.runs.group_training import GroupTraining
from mnist_jax.runs.groups import TrialGroup
from mnist_jax.runs.halving import Stage
from mnist_jax.runs.progress import COMMAND_LINE, Display
from mnist_jax.runs.provenance import Process
from mnist_jax.runs.records import Recorder, Row
from mnist_jax.runs.signals import StopSignals
from mnist_jax.runs.stopped import StoppedError
from mnist_jax.training import hosts, memory, networks, recipes, sweep, trial
from mnist_jax.training.devices import describe_devices, devices_for, what_runs
from mnist_jax.training.jax_setup import compiler_options


class Runner:
    """Trains the trials of an experiment that its work directory does not hold yet.

    In a job of several processes, each has a share of every trial axis; the first one alone reads
    and writes the work directory, and tells the others what it holds.

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
        display: Display = COMMAND_LINE,
    ):
        """Touches nothing yet; `record` is what `config.json` says, or will say."""
        self._path, self._experiment, self._dataset = path, experiment, dataset
        self._record = record or experiment.record()
        self._names = records.trial_rows(
            experiment.points, experiment.seeds, dataset.name, self._record
        )
        self._axes = labels.varying(self._names)
        self._groups = list(experiment.parts.values())
        self._stages = [Stage(0, experiment.rungs[0] if experiment.rungs else 0, self._groups)]
        self._epochs_done: dict[int, int] = {}
        self._read_again: set[int] = set()
        self.rows: list[Row] = []
        self._said: set[str] = set()
        self._process = process or Process()
        self._display, self._say = display, display.say
        self._options = compiler_options(experiment)

    @property
    def devices(self) -> dict[str, Any]:
        """What runs the trials and how, for the record."""
        first = self._stages[0].groups if len(self._stages) > 1 else self._groups
        most = max(map(len, first))
        devices = devices_for(most, self._experiment.devices)
        return describe_devices(devices, self._options)

    @property
    def has_own_files(self) -> bool:
        """Whether the model, an optimizer or a metric is the user's."""
        return bool(self._experiment.own_files)

    def rehearse(self) -> None:
        """Compiles what `train` compiles for a new run, before an old one is deleted for it.

        The cache keeps the programs, so this takes little more time in all.

        Raises:
            UserError: Memory does not hold a single trial.
        """
        for group in self._groups:
            try:
                self._compile(group)
            except groups.TOO_LARGE as error:
                groups.divide(group, error)

    def train(self) -> None:
        """Trains what the work directory does not hold.

        Raises:
            StoppedError: A signal came; all is saved.
            UserError: Memory does not hold a single trial.
        """
        with StopSignals(self._display.own_process) as stop:
            self._read_what_is_done()
            while group := self._next_group():
                try:
                    self._train_group(group, stop)
                except groups.TOO_LARGE as error:
                    self._divide(group, groups.divide(group, error))
        if hosts.is_first() and (self._experiment.halving or groups.are_recorded(self._path)):
            ordering.put_in_order(self._path, self._experiment, self.rows)

    def starts_finite(self) -> bool:
        """Says whether the first trial's model gives finite logits before any training."""
        recipe, trials = recipes.create_recipe(self._experiment, self._groups[0], self._dataset)
        first = sweep.trial_of(trials, 0)
        variables = trial.variables_of(trial.init(recipe, first))
        images = self._dataset.train_images[: recipe.batch_size]
        return bool(np.isfinite(sweep.predict(recipe, first, variables, images)).all())

    def _next_group(self) -> TrialGroup | None:
        """Returns a group that is not done, or at last one whose weights are missing.

        Where memory divides a grid point, the chosen trial may be in an earlier group.
        """
        while not (not_done := [group for group in self._groups if not self._is_done(group)]):
            if not self._stage.end:
                break
            self._read_what_is_done()
        if not_done:
            return not_done[0]
        chosen, missing = self._choose(self.rows), hosts.first(self._without_weights)
        if not (left := [trial for trial in missing if trial not in self._read_again]):
            for trial in missing:
                lost = "; the report lacks them" * (trial == chosen)
                problem = f"the weights of trial {trial} cannot be read back{lost}"
                print(f"warning: {problem}", file=sys.stderr, flush=True)
            return None
        trial, why = left[0], "which is chosen in the end" if left[0] == chosen else "to keep them"
        alone = [trial]
        group = next((group for group in self._groups if trial in group), alone)
        num_epochs = self._end_of(alone)
        saved = hosts.first(
            lambda: [saved_epoch(self._path, x, self._stages) == num_epochs for x in (alone, group)]
        )
        if any(saved):
            self._say(f"reading the weights of trial {trial} again, {why}")
        else:
            self._say(f"training trial {trial} again for its weights, {why}; no result changes")
        group = group if saved == [False, True] else alone
        self._read_again.update(group)
        return group

    @property
    def _stage(self) -> Stage:
        return self._stages[-1]

    def _is_done(self, group: TrialGroup) -> bool:
        """Says whether a group is at the end of the stage."""
        if end := self._stage.end:
            return all(self._epochs_done[trial] >= end for trial in group)
        return self._has_rows(group)

    def _has_rows(self, group: TrialGroup) -> bool:
        return {row["trial"] for row in self.rows}.issuperset(group)

    def _end_of(self, group: TrialGroup) -> int:
        """Returns the epoch to which a group trains: all, or up to a rung."""
        rows = {row["trial"]: row for row in self.rows}
        if group[0] in rows:
            return choosing.trained_epochs(rows[group[0]])
        return self._stage.end or self._experiment.point_of(group[0])["num_epochs"]

    def _without_weights(self) -> list[int]:
        """Returns the trials whose weights the run keeps, and that are not there."""
        chosen = self._choose(self.rows)
        missing = [chosen] * (chosen_trial.trial_of_weights(self._path) != chosen)
        if self._experiment.keep_weights == "all":
            there = {*weights.kept(self._path)}
            missing += [row["trial"] for row in self.rows if row["trial"] not in there]
        return missing

    def _choose(self, rows: Sequence[Row]) -> int:
        return choosing.choose_trial(rows, self._experiment.protocol)["trial"]

    def _compile(self, group: TrialGroup) -> sweep.Sweep:
        dataset, devices = self._dataset, self._experiment.devices
        recipe, trials = recipes.create_recipe(self._experiment, group, dataset)
        program = hosts.together(
            lambda: sweep.compile_sweep(
                recipe,
                trials,
                dataset,
                num_devices=devices,
                options=self._options,
                scores_test=not self._stage.end,
            )
        )
        self._process.seconds["compile"] += program.lower_seconds + program.compile_seconds
        if (most := memory.trials_that_fit(program)) < len(group):
            raise groups.DoesNotFitError(most)
        return program

    def _train_group(self, group: TrialGroup, stop: StopSignals) -> None:
        experiment, program, stage = self._experiment, self._compile(group), self._stage
        num_epochs, run = self._end_of(group), workdirs.digest(self._record, self._dataset.checksum)
        again = self._has_rows(group)  # for its weights: its rows are written
        path = self._path if hosts.is_first() and not again else None
        names = [self._names[trial] for trial in group]
        recorder = Recorder(path, names, self._axes, experiment.protocol, experiment.metrics)
        with Checkpoints(
            groups.checkpoint_folder(self._path, group, stage.start),
            run=run,
            num_trials=len(group),
            keep=experiment.checkpoints_kept,
        ) as checkpoints:
            interval = experiment.checkpoint_epochs
            training = GroupTraining(
                program,
                num_epochs,
                interval,
                recorder,
                checkpoints,
                self._process,
                stop,
                self._display,
            )
            newest = min(num_epochs, *(self._epochs_done[trial] for trial in group))
            kept = functools.partial(
                kept_states.restore, self._path, group, program.state, newest, self._stages, run
            )
            training.resume(newest, kept)
            start = training.epoch
            recorder.written = max(start, stage.start)  # rows before a rung have decided there
            # Not for every group: it reads the rows of all.
            if path and any(self._epochs_done[trial] > recorder.written for trial in group):
                ends = dict.fromkeys(group, recorder.written)
                records.trim_metrics(self._path, self._epochs_done | ends)
            self._say_what_runs(program, group, num_epochs, start)
            training.train()
        if training.signal_number:
            of_all = experiment.point_of(group[0])["num_epochs"]  # not up to a rung alone
            done = f"stopped after epoch {training.epoch} of {of_all}, and saved"
            raise StoppedError(training.signal_number, done, self._path)
        if not (again or stage.end):
            scores = sweep.score_test(program, training.state) if program.score_test else {}
            others = [row for row in self.rows if row["trial"] not in group]
            rows = recorder.rows(scores, 0 if experiment.halving else None)
            self.rows = sorted(others + rows, key=lambda row: row["trial"])
        self._keep_weights(group, program, training.state, recorder, num_epochs)
        if hosts.is_first():
            training.count_time()
            self._process.note()
            if not (again or stage.end):
                records.write_results(self._path, self.rows)
        self._epochs_done |= dict.fromkeys(group, num_epochs)

    def _keep_weights(
        self,
        group: TrialGroup,
        program: sweep.Sweep,
        state: Any,
        recorder: Recorder,
        num_epochs: int,
    ) -> None:
        """Writes those weights of a group, trained for so many epochs, that the run keeps.

        All processes of a job take part in what the devices do.
        """
        if self._experiment.keep_weights == "all":
            whole = hosts.gather(state)
            for place, number in enumerate(group if hosts.is_first() else ()):
                one = jax.tree.map(lambda x, place=place: x[place], whole)
                columns = {name: values[place] for name, values in recorder.columns.items()}
                weights.write_weights(self._path, number, one, num_epochs, columns)
        if self._stage.end or (chosen := self._choose(self.rows)) not in group:
            return
        place = group.index(chosen)
        variables = sweep.chosen_weights(state, place)
        if hosts.is_first():
            recipe, hyper = program.recipe, sweep.trial_of(program.trials, place)
            images = self._dataset.test_images
            predicted = sweep.predict(recipe, hyper, variables, images, self._options)
            first = recipe.network.first_kernel
            chosen_trial.write_chosen_trial(
                self._path, chosen, variables, predicted, self._dataset, first
            )

    def _say_what_runs(
        self, program: sweep.Sweep, group: TrialGroup, num_epochs: int, start: int
    ) -> None:
        dataset = self._dataset
        scored = {
            "test": "val_ is the test set",
            "validation": "val_ is validation images",
            None: "nothing is scored before the end",
        }[PROTOCOLS[self._experiment.protocol].held_out]
        self._say_once(what_runs(program.devices, self._experiment.platform))
        network = program.recipe.network
        if self._say_once(networks.layer_table(network)):
            if networks.ends_in_softmax(network):
                print(
                    "warning: the model ends in a softmax, which the loss computes again: expected"
                    " logits; leave it out, since a network learns little through both",
                    file=sys.stderr,
                )
            if network.plain_conv and program.devices["platform"] == "cpu":
                self._say(
                    "nn.Conv is slow in a compiled loop on a CPU: Conv, max_pool and avg_pool of"
                    " mnist_jax.layers take the same arguments and are several times as fast"
                )
        sizes = f"{len(dataset.train_labels)} training images"
        if is_path(self._experiment.dataset):
            height, width, channels = self._experiment.data.image_shape
            sizes += f" of {height} x {width} x {channels} in {len(dataset.class_names)} classes"
        if number := self._experiment.num_test:
            scored += f"; {labels.count(number, 'test image')} cut from the training set"
        self._say_once(f"{dataset.name} ({dataset.source}): {sizes}; {scored}")
        size = f"{labels.count(len(group), 'trial')} of {labels.count(num_epochs, 'epoch')}"
        if end := self._stage.end:
            size = f"{labels.count(len(group), 'trial')} up to epoch {end}, a rung"
        resumed = f", resumed after epoch {start}" if start else ", from the start"
        self._say(self._place_of(group) + size + resumed * (start != self._stage.start))

    def _say_once(self, text: str) -> bool:
        """Says what groups have in common before the first of them alone; returns if it did."""
        if is_new := text not in self._said:
            self._said.add(text)
            self._say(text)
        return is_new

    def _place_of(self, group: TrialGroup) -> str:
        """Says which of several groups one is, and by which static values its program differs."""
        if len(self._groups) == 1 or group not in self._groups:
            return ""
        static = [axis for axis in self._axes if axis in self._experiment.static]
        values = labels.label(self._names[group[0]], static)
        number = self._groups.index(group) + 1
        return f"part {number} of {len(self._groups)}{f' ({values})' if values else ''}: "

    # --- what is done ---

    def _read_what_is_done(self) -> None:
        """Opens the stage that is not done."""

        def read() -> list[Any]:
            done = read_done(self._path, self._experiment, self._record, self._names, self._say)
            return [done.stages, done.groups, list(done.epochs.items()), done.rows]

        stages, self._groups, epochs_done, self.rows = hosts.first(read)
        self._stages = [Stage(*stage) for stage in stages]
        self._epochs_done = dict(epochs_done)
        for before, after in itertools.pairwise(self._stages):
            self._say_once(f"after epoch {before.end}, {self._count(before, after)}")

    def _count(self, before: Stage, after: Stage) -> str:
        """Says how many points of a stage go on to another."""
        num_seeds = self._experiment.num_seeds
        had, have = (sum(map(len, stage.groups)) // num_seeds for stage in (before, after))
        return f"the best {have} of {labels.count(had, 'point')} go on"

    def _divide(self, group: TrialGroup, smaller: list[TrialGroup]) -> None:
        """Replaces a group by smaller ones that memory holds."""
        parts = f"{len(smaller)} parts, one after the other"
        self._say(f"memory does not hold {len(group)} trials: {parts}")
        place = self._groups.index(group)
        self._groups[place : place + 1] = smaller
        if is_done := self._is_done(group):
            self._read_again.difference_update(group)
        else:
            # They have no checkpoint of these, and few runs keep states beside.
            saved = hosts.first(lambda: [saved_epoch(self._path, x, self._stages) for x in smaller])
            for piece, epoch in zip(smaller, saved, strict=True):
                self._epochs_done |= {t: min(epoch, self._epochs_done[t]) for t in piece}
        if hosts.is_first():
            groups.write_groups(self._path, self._groups, self._stage.start)
            if not is_done:
                records.trim_metrics(self._path, self._epochs_done)
