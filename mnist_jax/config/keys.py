"""Which keys a config has: those of every run, and those of its model and optimizers."""

import difflib
import functools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_jax import UserError
from mnist_jax.config import columns, user_axes, user_code
from mnist_jax.config.axes import MODELS, OPTIMIZERS, Axis, in_grid_order
from mnist_jax.config.config_files import advice, plain, values_in
from mnist_jax.config.settings import SETTINGS
from mnist_jax.config.user_code import OwnFile
from mnist_jax.text import bare

_RESERVED = {
    *("name", "seed", "shard", "files", "data", *SETTINGS),
    *("trial", "point", "epoch", "diverged_epoch", "stopped_epoch"),
    *("num_trials", "diverged_seeds", "statistics", "epochs_done"),
}
"""Names of keys and columns of a run, which no axis of a user's file may have."""
_BUILT_IN: Mapping[str, Mapping[str, Any]]
_BUILT_IN = {"model": MODELS, "optimizer": OPTIMIZERS, "metrics": columns.METRICS}


@functools.lru_cache
def find_axes(
    model: str, optimizers: tuple[str, ...], files: tuple[OwnFile, ...] = ()
) -> dict[str, Axis]:
    """Returns the axes of a config by name, in the order of the grid.

    Model and optimizers have the names of a run's record, and are in `files` if not built in.

    Raises:
        UserError: One cannot be loaded, or two keys have the same name.
    """
    axes = in_grid_order(
        parameters_of("model", model, files).values(),
        {spec: parameters_of("optimizer", spec, files).values() for spec in optimizers},
    )
    for name, axis in axes.items():
        if name in _RESERVED or columns.split_column(name)[1] in columns.ALWAYS:
            raise UserError(
                f"{name}: the {axis.of} has a parameter of this name, which a run uses itself;"
                " rename it in your file"
            )
    return axes


def built_in_axes() -> Iterator[tuple[str, str, list[Axis]]]:
    """Yields all axes that the package has: first those of every recipe, with two empty strings.

    Then come those of each model and optimizer, with the key that chooses it and its name.
    """
    yield "", "", [axis for axis in find_axes("mlp", ("sgd",)).values() if not axis.of]
    for key, built_in in (("model", MODELS), ("optimizer", OPTIMIZERS)):
        for name, axes in built_in.items():
            yield key, name, list(axes)


def parameters_of(key: str, spec: str, files: tuple[OwnFile, ...]) -> dict[str, Axis]:
    """Returns the axes of what `key`, which is `model` or `optimizer`, names; by name."""
    axes = _BUILT_IN[key].get(spec) or user_axes.read_axes(key, find_own(spec, key, files), spec)
    return {axis.name: axis._replace(of=key) for axis in axes}


def find_own(spec: str, key: str, files: Sequence[OwnFile]) -> Any:
    """Returns the class or function that `FILE.py:NAME` names in one of an experiment's files."""
    name, _, _ = spec.rpartition(":")
    return user_code.load(next(file for file in files if file.name == name), spec, key)


def default_config(model: str = "mlp", optimizer: str | Sequence[str] = "sgd") -> Any:
    """Returns a config with every key and its default, as an `ml_collections.ConfigDict`.

    It takes no other keys, so that a mistyped one is an error. If another model or optimizer is
    set, its keys replace those of the one before, with their defaults.

    Args:
        model: A name of `axes.MODELS`, or `FILE.py:CLASS`, whose fields become keys. The file
            is looked for in the current directory, and then beside the file that calls this.
        optimizer: A name of `axes.OPTIMIZERS`, or `FILE.py:FUNCTION`, or several; their parameters
            become keys.

    Raises:
        UserError: One cannot be loaded, or two keys have the same name.
    """
    import ml_collections

    class Config(ml_collections.ConfigDict):
        """A config with the keys of its model and optimizers."""

        def __setitem__(self, key: str, value: Any) -> None:
            if key in ("model", "optimizer") and self.is_locked:
                before = known(self.model, self.optimizer)
                now = known(**{"model": self.model, "optimizer": self.optimizer, key: value})
                with self.unlocked():
                    for name in before.keys() - now.keys():
                        del self[name]
                    for name, axis in now.items():
                        if name not in before or plain(self[name]) == before[name].default:
                            super().__setitem__(name, axis.default)
            super().__setitem__(key, value)

    callers, frame = [], sys._getframe().f_back
    while frame:  # the file that calls this is first, unless functions are wrapped around it
        callers.append(Path(frame.f_code.co_filename).parent)
        frame = frame.f_back
    resolver = Resolver(list(dict.fromkeys(callers)), {})

    def known(model: Any, optimizer: Any) -> dict[str, Axis]:
        specs = dict.fromkeys(resolver.resolve("optimizer", o) for o in values_in(plain(optimizer)))
        return find_axes(resolver.resolve("model", model), tuple(specs), resolver.files)

    config = Config(type_safe=False)  # every value is checked when it is read
    for name, setting in SETTINGS.items():
        config[name] = setting.default
    for name, axis in known(model, optimizer).items():
        config[name] = axis.default
    config.model, config.optimizer = model, optimizer
    return config.lock()


def bad_value(key: str, value: object, expected: str) -> UserError:
    """Returns the error of a key with an invalid value, which may be an object with many lines."""
    shown = str(value)
    if "\n" in shown and len(shown) > 100:  # an array, say
        shown = f"{shown.splitlines()[0][:100]} ..."
    return UserError(f"--config.{key}={shown}: expected {expected}")


def unknown_key(
    key: str, typed: bool, model: str, optimizers: tuple[str, ...], files: tuple[OwnFile, ...]
) -> UserError:
    """Returns the error of a key that no config of this model has, with what to give instead."""
    known = find_axes(model, optimizers, files)
    problem = f"--config.{key}: no such key" if typed else f"config key {key}: unknown"
    for what, named in (("model", (model,)), ("optimizer", optimizers)):
        built_in = _BUILT_IN[what]
        for spec in named:
            if spec in built_in:
                continue
            if key in user_axes.defaults_of(what, find_own(spec, what, files), spec):
                return UserError(
                    f"--config.{key}: {spec} has a parameter {key}, but no config can give it:"
                    " expected one whose annotation and default are a bool, a whole number, a"
                    " float, a string or a tuple of whole numbers; set it in your file"
                )
        takers = [n for n, axes in built_in.items() if key in {axis.name for axis in axes}]
        if takers:
            own = [name for name, axis in known.items() if axis.of == what]
            takes = f"{' and '.join(named)} take{'s' * (len(named) == 1)} no {key}"
            takes += f", but {', '.join(own)}" if own else ""
            return UserError(
                f"--config.{key}: {takes}; leave it out, or choose --config.{what}={takers[0]}"
            )
    keys = [*SETTINGS, *known]
    return UserError(f"{problem}; {advice(key, keys) or 'known: ' + ', '.join(sorted(keys))}")


def recorded_as(spec: Any) -> str:
    """Returns how a record names a model, an optimizer or a metric."""
    spec = str(spec)
    return user_code.record_name(spec) if user_code.names_file(spec) else spec


class Resolver:
    """Finds the models, optimizers and metrics that a config names, and collects their files."""

    def __init__(
        self, folders: Sequence[Path], copies: Mapping[str, OwnFile], typed: Collection[str] = ()
    ):
        """Keys that were typed name files in the folders; other keys first name a run's copies."""
        self._folders, self._copies, self._typed = folders, copies, typed
        self._found: dict[str, OwnFile] = {}

    @property
    def files(self) -> tuple[OwnFile, ...]:
        """The user's files that were found so far."""
        return tuple(self._found.values())

    def resolve(self, key: str, spec: Any) -> str:
        """Returns what a key names, as the record of a run names it; reads and runs a user's file.

        Raises:
            UserError: It is neither built in, nor a class or function of a file.
        """
        known = _BUILT_IN[key]
        if isinstance(spec, str) and spec in known:
            return spec
        if not (isinstance(spec, str) and user_code.names_file(spec)):
            word = bare(str(spec))
            close = [x for x in known if len(word) > 2 and bare(x).startswith(word)]
            close += difflib.get_close_matches(str(spec).lower(), known, n=1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise bad_value(key, spec, f"{', '.join(known)} or FILE.py:NAME{meant}")
        name = user_code.record_name(spec)
        base, _, _ = name.rpartition(":")
        if key not in self._typed and base in self._copies:
            file = self._copies[base]
        else:
            file = user_code.read(spec, key, self._folders)
        if self._found.setdefault(base, file).content != file.content:
            raise bad_value(key, spec, f"files of different names: another {base} is used, too")
        user_code.load(file, name, key)
        return name
