"""An experiment: a config whose keys have been checked and resolved."""

import functools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnist_jax import UserError
from mnist_jax.config import checks, dataset_key, grid, keys, old_records, rungs
from mnist_jax.config.axes import Axis
from mnist_jax.config.checks import setting_value
from mnist_jax.config.columns import check_metrics
from mnist_jax.config.config_files import (
    EXPECTED,
    ConfigFile,
    plain,
    read_file,
    read_value,
    values_in,
)
from mnist_jax.config.grid import Point
from mnist_jax.config.keys import Resolver, bad_value, find_axes, parameters_of
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.config.settings import SETTINGS, Settings
from mnist_jax.config.user_code import OwnFile
from mnist_jax.data import datasets, loading, splits
from mnist_jax.data.datasets import DataFacts
from mnist_jax.data.splits import Dataset

MAX_TRIALS = 10**6  # their rows take a gigabyte or two
UNNAMED = "run"
"""The name of what no config file asks for."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Settings):
    """A config after the check: every key is there and has one type."""

    name: str  # of the config file
    values: dict[str, tuple]  # of each axis, by its name, in the order of the grid
    seed: int | tuple[int, ...]  # of the first trial of a point, or all seeds
    shard: str  # `i/n`: every n-th trial, from index i on
    own_files: tuple[OwnFile, ...] = ()  # that the model, optimizers and metrics are in
    data: DataFacts
    # The user's own data, for the first `load_data`, after which it is not kept.
    loaded: list[Dataset] = field(default_factory=list, compare=False, repr=False)

    def record(self) -> dict[str, Any]:
        """Returns the content of `config.json`: every key, and name, seed and shard."""
        record: dict[str, Any] = {"name": self.name}
        record |= {name: getattr(self, name) for name in SETTINGS} | self.values
        record |= {"seed": self.seed, "shard": self.shard}
        if datasets.is_path(self.dataset):
            record["data"] = self.data._asdict()
        if self.own_files:
            record["files"] = {file.name: file.sha256 for file in self.own_files}
        return record

    @property
    def axes(self) -> dict[str, Axis]:
        """The axes by name, in the order of the grid."""
        return find_axes(self.model, self._optimizers, self.own_files)

    @property
    def static(self) -> list[str]:
        """The names of the static axes."""
        return [name for name, axis in self.axes.items() if not axis.traced]

    @property
    def _optimizers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.values["optimizer"]))

    @functools.cached_property
    def points(self) -> list[Point]:
        """The points of the grid; an axis that a point's optimizer does not take is None in it."""
        known = self.axes
        scales = {name: axis.scale for name, axis in known.items()}
        points = grid.make_points(self.values, scales, self.grid, self.num_points, self.design_seed)
        if len(self._optimizers) == 1:
            return points
        taken = {o: parameters_of("optimizer", o, self.own_files) for o in self._optimizers}
        return grid.distinct(_own_values(point, known, taken) for point in points)

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of the repeated trials, the same at every point."""
        return seeds_of(self.seed, self.num_seeds)

    @functools.cached_property
    def parts(self) -> dict[tuple, list[int]]:
        """The indices of the shard's trials, by their values of the static axes: a program each."""
        static = self.static
        shard, num_shards = map(int, self.shard.split("/"))
        parts: dict[tuple, list[int]] = {}
        for number, point in enumerate(self.points):
            choices = tuple(point[name] for name in static)
            for trial in range(number * self.num_seeds, (number + 1) * self.num_seeds):
                if trial % num_shards == shard:
                    parts.setdefault(choices, []).append(trial)
        return parts

    @functools.cached_property
    def rungs(self) -> list[int]:
        """The epochs after which the best of the points that are left go on; none by default."""
        num_epochs = self.values["num_epochs"][0]
        return rungs.rungs(num_epochs, self.halving, self.min_epochs, len(self.points))

    def point_of(self, trial: int) -> Point:
        """Returns the point of a trial, given its index."""
        return self.points[trial // self.num_seeds]

    def load_data(self, data_dir: str | None) -> Dataset:
        """Loads the data set, cut into its splits; `data_dir` is as `load_dataset` takes it.

        Raises:
            UserError: As `load_dataset`; the user's own data is gone or has changed since a run
                that is resumed began; or `data_dir` is given for it.
        """
        if data_dir and datasets.is_path(self.dataset):
            raise UserError(f"--data_dir={data_dir}: leave it out, since dataset is a path")
        if not self.loaded and datasets.is_path(self.dataset) and not os.path.lexists(self.dataset):
            raise UserError(
                f"{self.dataset}: the data of the run is not there any more; put it back, or say"
                " where it is now: --config.dataset=PATH"
            )
        loaded = self.loaded
        dataset = loaded.pop() if loaded else loading.load_dataset(self.dataset, data_dir)
        if self.data.checksum not in ("", dataset.checksum):
            raise UserError(
                f"{self.dataset} has changed since the run began: its checksum is"
                f" {dataset.checksum}, not {self.data.checksum}; put it back as it was, or begin"
                " another run"
            )
        dataset = splits.cut_test(dataset, self.num_test, self.test_seed)
        return splits.hold_out_validation(dataset, self.num_validation, self.validation_seed)


def seeds_of(seed: int | Sequence[int], num_seeds: int) -> Sequence[int]:
    """Returns the seeds of a point's trials, given the first of them, or all."""
    return range(seed, seed + num_seeds) if isinstance(seed, int) else seed


def _own_values(point: Point, known: Mapping[str, Axis], taken: Mapping[str, dict]) -> Point:
    """Returns a point with its optimizer's values, and None for axes that this does not take."""
    own = taken[point["optimizer"]]
    own_point = dict(point)
    for name, axis in known.items():
        value = point[name]
        if name in own:
            if value is None:
                own_point[name] = own[name].default
            elif not own[name].kind.valid(value):
                raise bad_value(name, value, own[name].kind.expected)
        elif axis.of == "optimizer":
            if value is not None and value != axis.default:
                raise UserError(
                    f"--config.{name}={value}: {point['optimizer']} does not take it; with"
                    f" --config.grid=list give {axis.default} where the optimizer is that one, or"
                    " make two runs"
                )
            own_point[name] = None
    return own_point


def read_experiment(
    config: Any, changes: Mapping[str, Any], seed: Any = None, shard: str | None = None
) -> Experiment:
    """Returns the experiment of a config, or of a run whose `config.json` is named.

    A changed model or optimizer has its own defaults: the config's values for the one that it
    replaces are left out.

    Args:
        config: A file, as of `config_files.read_file`; or a ConfigDict or mapping.
        changes: Values that replace the config's, by key; text is read as it is typed.
        seed: By default the run's, or 0.
        shard: `i/n`; by default the run's, or all trials.

    Raises:
        UserError: The file cannot be read; also as `read_config`.
    """
    if isinstance(config, str):
        file = read_file(config)
    elif not hasattr(config, "keys"):
        raise UserError(f"--config={config!r}: {EXPECTED}; or a dict of keys, from Python")
    else:
        file = ConfigFile({str(key): config[key] for key in config}, UNNAMED, Path())
    given, changes = changes, {key: _read(value) for key, value in changes.items()}
    if not isinstance(changes.get("dataset", ""), str):  # a path may look like anything
        changes["dataset"] = given["dataset"]
    first = plain(file.seed) if seed is None else _read(seed)
    if isinstance(first, tuple) and changes.get("num_seeds", len(first)) != len(first):
        named = ",".join(map(str, first))
        expected = f"{len(first)}, for the seeds {named}; leave it out, or give another --seed"
        raise bad_value("num_seeds", changes["num_seeds"], expected)
    try:
        return read_config(
            file.config,
            file.name,
            first,
            file.shard if shard is None else shard,
            typed=changes,
            folders=[file.folder],
            copies=file.copies,
            data=None if "dataset" in changes else file.data,
        )
    except UserError as error:
        key = re.match(r"--config\.(\w+)=", str(error))
        if isinstance(config, str) and key and key[1] in file.config and key[1] not in changes:
            said = str(error).removeprefix("--config.")
            raise UserError(f"--config={config}: {said}; the value stands in that file") from None
        raise


def _read(value: Any) -> Any:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    return plain(read_value(value) if isinstance(value, str) else value)


def read_config(
    config: Any,
    name: str,
    seed: Any,
    shard: str = "0/1",
    *,
    typed: Mapping[str, Any] = MappingProxyType({}),
    folders: Sequence[Path] = (),
    copies: Mapping[str, OwnFile] = MappingProxyType({}),
    data: DataFacts | None = None,
) -> Experiment:
    """Checks every key of a config, once.

    Args:
        config: A ConfigDict or mapping, as of a config file; a missing key has its default.
        name: Of the config file.
        seed: Of the first repeated trial; the others follow it. Or all seeds, whose number then
            replaces `num_seeds`.
        shard: `i/n`: every n-th trial, from index i on.
        typed: Values that replace the config's, by key.
        folders: Where the user's files are looked for after the current folder.
        copies: The user's files in a run's directory, by name.
        data: Facts of the user's own data, if it need not be read for them.

    Raises:
        UserError: A key is unknown or has an invalid value.
    """
    config = {str(key): plain(config[key]) for key in config}
    config = _merge(config, typed, Resolver(folders, copies))
    resolver = Resolver(folders, copies, typed)
    models = [resolver.resolve("model", spec) for spec in values_in(config.get("model", "mlp"))]
    if len(models) != 1:
        expected = "one, since its fields are keys of the config; make a run of each"
        raise bad_value("model", ",".join(models), expected)
    (model,) = models
    specs = values_in(config.get("optimizer", "sgd"))
    optimizers = tuple(resolver.resolve("optimizer", spec) for spec in specs)
    distinct_optimizers = tuple(dict.fromkeys(optimizers))
    metrics = tuple(resolver.resolve("metrics", spec) for spec in setting_value(config, "metrics"))
    known = find_axes(model, distinct_optimizers, resolver.files)
    check_metrics(metrics, known)
    for key in config:
        if key not in known and key not in SETTINGS:
            raise keys.unknown_key(key, key in typed, model, distinct_optimizers, resolver.files)
    config |= {"model": model, "optimizer": optimizers, "metrics": metrics}
    config["dataset"] = setting_value(config, "dataset")
    loaded: list[Dataset] = []
    if data is None or not datasets.is_path(config["dataset"]):
        config["dataset"], data, loaded = dataset_key.find(config["dataset"], folders)
    if isinstance(first := plain(seed), tuple):
        config["num_seeds"] = len(first) or 1
    if (num_seeds := setting_value(config, "num_seeds")) > MAX_TRIALS:
        raise bad_value("num_seeds", num_seeds, f"at most {MAX_TRIALS}")
    checks.check_seed(first, num_seeds)
    num_test = dataset_key.count_test(setting_value(config, "num_test"), config["dataset"], data)
    num_images = data.num_train - num_test
    config["num_validation"] = dataset_key.count_validation(
        setting_value(config, "num_validation"), setting_value(config, "protocol"), num_images
    )
    mixed = len(distinct_optimizers) > 1
    experiment = Experiment(
        name=name,
        **{key: setting_value(config, key) for key in SETTINGS},
        values={key: checks.axis_values(config, axis, mixed) for key, axis in known.items()},
        seed=first,
        shard=shard,
        own_files=resolver.files,
        data=data,
        loaded=loaded,
    )
    _check_trials(experiment, num_images - experiment.num_validation)
    return experiment


def _check_trials(experiment: Experiment, num_images: int) -> None:
    """Refuses too many trials, points whose values do not fit, and a shard that is none."""
    searches = experiment.grid in ("random", "halton")
    if bool(experiment.num_points) != searches:
        number = "1 or more, the points to draw" if searches else "0"
        expected = f"{number}, with --config.grid={experiment.grid}"
        raise bad_value("num_points", experiment.num_points, expected)
    sizes = list(map(len, experiment.values.values()))
    most = math.prod(sizes) if experiment.grid == "product" else max(sizes)
    if (num_trials := experiment.num_seeds * (experiment.num_points or most)) > MAX_TRIALS:
        raise UserError(
            f"the config asks for {num_trials} trials: expected at most {MAX_TRIALS}; give fewer "
            "values, num_points or num_seeds"
        )
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", experiment.shard)
    if match and int(match[2]) <= num_trials:  # else points need not be made
        for point in experiment.points:
            checks.check_point(point, experiment.model, num_images, experiment.data.image_shape)
        num_trials = len(experiment.points) * experiment.num_seeds
    if not (match and int(match[1]) < int(match[2]) <= num_trials):
        raise UserError(
            f"--shard={experiment.shard}: expected i/n with i from 0 to n - 1 and n at most"
            f" {num_trials}, the number of trials"
        )
    rungs.check(
        experiment.halving,
        experiment.min_epochs,
        protocol=experiment.protocol,
        shard=experiment.shard,
        num_epochs=experiment.values["num_epochs"],
        num_points=len(experiment.points),
    )


def _merge(config: dict, typed: Mapping[str, Any], resolver: Resolver) -> dict:
    """Returns a file's config in the keys of this version, with typed values in place of its own.

    If another model or optimizer is typed, the file's values for the one that it replaces are left
    out. If the typed protocol holds no images out, the file's `num_validation` is.
    """
    late = {key: typed[key] for key in ("protocol", "model", "optimizer") if key in typed}
    config = old_records.upgrade(config | {k: value for k, value in typed.items() if k not in late})
    gone = set()
    if (protocol := PROTOCOLS.get(str(late.get("protocol")))) and protocol.held_out != "validation":
        gone.add("num_validation")
    for key in [k for k in late if k != "protocol"]:
        before = values_in(config.get(key, "mlp" if key == "model" else "sgd"))
        now = list(map(keys.recorded_as, values_in(late[key])))
        if now != list(map(keys.recorded_as, before)):
            was = [resolver.resolve(key, spec) for spec in before]
            axes_of = {spec: parameters_of(key, spec, resolver.files) for spec in was}
            stays = {name for spec in now if spec in axes_of for name in axes_of[spec]}
            before_axes = {n: axis for axes in axes_of.values() for n, axis in axes.items()}
            for name, axis in before_axes.items():
                # A default belongs to its optimizer: others have their own, for which None stands.
                silent = (None, (None,), axis.default, (axis.default,))
                if name not in stays or config.get(name) in silent:
                    gone.add(name)
    return {k: value for k, value in config.items() if k not in gone - typed.keys()} | late
