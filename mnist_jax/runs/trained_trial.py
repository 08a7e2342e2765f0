"""A trained trial, read back from its run: its weights, and what it predicts of any images.

No data set is needed, nor the user's own files: a run's record and its copies hold what is.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnist_jax import UserError
from mnist_jax.config.experiment import Experiment, read_experiment
from mnist_jax.data.datasets import DataFacts
from mnist_jax.data.normalise import UNSCALED
from mnist_jax.data.splits import Moments
from mnist_jax.run_files import BadFileError
from mnist_jax.runs import results, weights
from mnist_jax.runs.chosen_trial import read_chosen_trial
from mnist_jax.runs.records import Row
from mnist_jax.runs.results import Run
from mnist_jax.text import first_of


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedTrial:
    """A trial of a finished run, with the weights that count: its best epoch's, or the last ones.

    JAX starts when it is first needed, set up as the run had it where that can be had here; its
    settings are afterwards as they were.
    """

    number: int
    run: Run = dataclasses.field(repr=False)
    variables: dict[str, Any] = dataclasses.field(repr=False)
    """Nested, NumPy arrays at the leaves: `params`, and the module's other collections."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters: nested, NumPy arrays at the leaves."""
        return self.variables["params"]

    @property
    def row(self) -> Row:
        """Its row of `results.csv`: the seed, the values of the axes, and how it scored."""
        return next(row for row in self.run.results if row["trial"] == self.number)

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the probabilities; numbers if none are known"""
        return list(self.run.class_names) or list(map(str, range(self._facts.num_classes)))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self._facts.image_shape

    @property
    def takes_floats(self) -> bool:
        """Whether the images of the run's data set are floats, used as they are, and not bytes."""
        return self.run.summary.get("data", {}).get("pixels", "uint8") != "uint8"

    @functools.cached_property
    def experiment(self) -> Experiment:
        """The run's experiment."""
        return read_experiment(str(self.run.workdir / "config.json"), {})

    @property
    def _facts(self) -> DataFacts:
        return self.experiment.data

    @property
    def moments(self) -> Moments | None:
        """By which pixels are scaled, from 0 to 1 or as floats; None if they are used unscaled."""
        if self.experiment.point_of(self.number)["scaling"] != "standard":
            return None
        found = self.run.summary.get("data", {}).get("moments")
        if found is None or {*map(len, found.values())} != {self.image_shape[2]}:
            problem = "summary.json lacks the mean and deviation that its pixels were scaled by"
            raise results.unreadable(self.run.workdir, problem)
        return Moments(tuple(found["mean"]), tuple(found["deviation"]))

    @functools.cached_property
    def program(self) -> tuple[Any, Any, Any]:
        """The arguments of `training.trial.predict`, without the images.

        That is recipe, hyper-parameters, and the variables in the types that the model has.
        """
        from mnist_jax.training import recipes, sweep

        with self.jax():
            recipe, trials = recipes.create_recipe(self.experiment, [self.number])
            variables = self._typed_variables(recipe.network)
        return recipe._replace(moments=self.moments), sweep.trial_of(trials, 0), variables

    @property
    def recipe(self) -> Any:
        """The static choices of the trial, as `training.trial.Recipe`."""
        return self.program[0]

    @property
    def hyper(self) -> Any:
        """The traced numbers of the trial, as `training.trial.Hyperparameters`."""
        return self.program[1]

    @property
    def layers(self) -> str:
        """A table of its layers, their output shapes and their numbers of parameters."""
        from mnist_jax.training import networks

        with self.jax():
            return networks.layer_table(self.recipe.network)

    def _typed_variables(self, network: Any) -> Any:
        """Returns the variables in the model's types: a file has float32 for 16-bit floats.

        Raises:
            UserError: They are not those of the model.
        """
        from flax import traverse_util

        from mnist_jax.training import networks

        wanted = traverse_util.flatten_dict(dict(networks.shapes(network)), sep="/")
        found = traverse_util.flatten_dict(self.variables, sep="/")
        shapes = [{name: x.shape for name, x in each.items()} for each in (wanted, found)]
        if shapes[0] != shapes[1]:
            odd = sorted(dict(shapes[0].items() ^ shapes[1].items()))
            problem = f"the weights of trial {self.number} are not those of its model"
            raise results.unreadable(self.run.workdir, f"{problem} ({first_of(odd, 3)})")
        typed = {name: x.astype(wanted[name].dtype) for name, x in found.items()}
        return traverse_util.unflatten_dict(typed, sep="/")

    @contextlib.contextmanager
    def jax(self) -> Iterator[None]:
        """Sets JAX up as the run had it, or as near to that as the machine of this process can."""
        from mnist_jax.training.jax_setup import jax_for

        anywhere = dataclasses.replace(self.experiment, platform="")
        candidates = self.experiment, anywhere, dataclasses.replace(anywhere, precision="float32")
        with contextlib.ExitStack() as stack:
            for candidate in candidates:
                try:
                    stack.enter_context(jax_for(candidate, num_trials=1))
                    break
                except UserError:
                    if candidate is candidates[-1]:
                        raise
            yield

    def predict(self, images: Any) -> np.ndarray:
        """Returns the probabilities of the classes, float32 [n, classes].

        On the machine of the run they are those of `chosen_trial.npz` for the test images.

        Args:
            images: [n, height, width], or with channels. Bytes 0 to 255, or floats as the run's
                data set has them; where that has bytes, floats from 0 to 1.

        Raises:
            UserError: The images have another shape, or other values.
        """
        pixels = self._checked(images)
        from mnist_jax.training import sweep
        from mnist_jax.training.jax_setup import compiler_options, keep_compiled

        recipe, hyper, variables = self.program
        # Whole batches, so that all small numbers of images share a program. What fills them up
        # is what the program itself would take.
        filler = np.repeat(pixels[:1], -len(pixels) % recipe.eval_batch_size, axis=0)
        with self.jax():
            keep_compiled()
            options = compiler_options(self.experiment)
            whole = np.concatenate([pixels, filler])
            return sweep.predict(recipe, hyper, variables, whole, options)[: len(pixels)]

    def _checked(self, images: Any) -> np.ndarray:
        """Returns images as the run's data set would hold them."""
        array = np.asarray(images)
        height, width, channels = shape = self.image_shape
        if array.shape[1:] == (height, width) and channels == 1:
            array = array[..., None]
        if array.shape[1:] != shape or not len(array):
            one = "; of one image, give images[None]" * (array.shape in (shape, shape[:2]))
            expected = f"[n, {height}, {width}{f', {channels}' if channels > 1 else ''}]"
            raise UserError(f"images of the shape {list(array.shape)}: expected {expected}{one}")
        if channels == 1:
            array = array[..., 0]  # as data sets have them
        expected = "floats as in the run's data set"
        if not self.takes_floats:
            expected = "whole numbers from 0 to 255, or floats from 0 to 1"
            if array.dtype.kind in "iu":
                if 0 <= array.min() <= array.max() <= 255:
                    return array.astype(np.uint8)
                raise UserError(f"images from {array.min()} to {array.max()}: expected {expected}")
        if array.dtype.kind != "f":
            raise UserError(f"images of {array.dtype}: expected {expected}")
        # What was resized may lie a little outside; from -1 to 1 is another scale.
        if not self.takes_floats and not -0.5 <= array.min() <= array.max() <= UNSCALED:
            lowest, highest = float(array.min()), float(array.max())
            raise UserError(f"floats from {lowest:g} to {highest:g}: expected {expected}")
        return array.astype(np.float32)


def read_trained_trial(workdir: str | os.PathLike, number: int | None = None) -> TrainedTrial:
    """Reads a trial of a finished run, by default the chosen one.

    Raises:
        UserError: There is no such run or trial, its weights were not kept, or a file is damaged.
    """
    if os.path.lexists(Path(workdir) / "config.json") and not results.is_finished(workdir):
        raise UserError(f"{workdir} has not finished: expected a run that has; wait, or resume it")
    run = results.read_run(workdir)
    if number is None:
        number = run.summary["chosen_trial"]
        if why := run.summary.get("chosen_trial_missing"):
            raise UserError(f"{workdir} lacks the weights of its chosen trial, {number}: {why}")
    if number not in (numbers := [row["trial"] for row in run.results]):
        expected = first_of(list(map(str, numbers)), 9)
        raise UserError(f"{workdir} has no trial {number}: expected one of {expected}")
    try:
        flat = _read_variables(run.workdir, number)
    except BadFileError as error:
        raise results.unreadable(run.workdir, error) from None
    nested: dict[str, Any] = {}
    for name, array in flat.items():
        *path, last = name.split("/")
        functools.reduce(lambda inner, key: inner.setdefault(key, {}), path, nested)[last] = array
    return TrainedTrial(number, run, nested)


def _read_variables(workdir: Path, number: int) -> dict[str, np.ndarray]:
    """Returns the variables of a trial by their names, as in `params/LAYER/NAME`.

    Raises:
        BadFileError: A file that should hold them is missing or damaged.
        UserError: They were not kept.
    """
    if number in (kept := weights.kept(workdir)):
        return weights.read_variables(workdir, number)
    arrays = read_chosen_trial(workdir)
    if number == arrays["trial"]:
        return {name: array for name, array in arrays.items() if "/" in name}
    there = first_of(list(map(str, sorted({*kept, int(arrays["trial"])}))), 9)
    raise UserError(
        f"{workdir} keeps no weights of trial {number}, but those of {there}: expected one of"
        " these; a run with --config.keep_weights=all keeps those of every trial"
    )
