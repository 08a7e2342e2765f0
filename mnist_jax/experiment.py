"""What a config asks for: every key checked once, resolved, and of one type."""

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from mnist_jax import UserError, data, grid, hosts
from mnist_jax.config_files import advice, plain, read_file, read_value
from mnist_jax.grid import Point
from mnist_jax.protocol import PROTOCOLS, protocol_name

PRECISIONS = {
    "float32": "float32",
    "tf32": "TF32_TF32_F32",
    "bfloat16": "BF16_BF16_F32",
}
"""What matrix products round their factors to, in JAX's names; sums are in float32 throughout."""
COMPUTED = {
    "cpu": ("float32",),
    "gpu": ("float32", "tf32", "bfloat16"),  # since compute capability 8.0
    "tpu": ("float32", "bfloat16"),
}
"""What each platform computes in; of others JAX refuses some, and ignores some without a word."""
MAX_TRIALS = 10**6  # whose rows take a gigabyte or two
MAX_SIZE = 2**16  # units or features of a layer; the weights of two such layers take 16 GiB


class Experiment(NamedTuple):
    """A config after checking: every key, resolved and of one type; the axes are tuples."""

    name: str
    dataset: str
    num_validation: int
    choose_epoch: bool
    conv_features: tuple[tuple[int, ...], ...]
    hidden_sizes: tuple[tuple[int, ...], ...]
    num_epochs: tuple[int, ...]
    batch_size: tuple[int, ...]
    nesterov: tuple[bool, ...]
    learning_rate: tuple[float, ...]
    schedule: tuple[str, ...]
    warmup_steps: tuple[int, ...]
    momentum: tuple[float, ...]
    l2: tuple[float, ...]
    l2_on_output: tuple[bool, ...]
    weight_decay: tuple[float, ...]
    label_smoothing: tuple[float, ...]
    grid: str
    num_points: int
    design_seed: int
    num_seeds: int
    checkpoint_epochs: int
    checkpoints_kept: int
    platform: str
    devices: int
    precision: str
    deterministic: bool
    seed: int | tuple[int, ...]
    shard: str

    @property
    def points(self) -> list[Point]:
        """The points of the grid."""
        axes = {name: getattr(self, name) for name in grid.AXES}
        return grid.make_points(axes, self.grid, self.num_points, self.design_seed)

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of the repeated trials, the same at every point."""
        if isinstance(self.seed, int):
            return range(self.seed, self.seed + self.num_seeds)
        return self.seed

    @property
    def parts(self) -> dict[tuple, list[int]]:
        """The numbers of the shard's trials, by the static choices that give them a program."""
        shard, num_shards = map(int, self.shard.split("/"))
        parts: dict[tuple, list[int]] = {}
        for point, recipe in enumerate(self.points):
            for trial in range(point * self.num_seeds, (point + 1) * self.num_seeds):
                if trial % num_shards == shard:
                    parts.setdefault(recipe.static, []).append(trial)
        return parts

    @property
    def protocol(self) -> str:
        """How it is scored and what chooses, a key of `PROTOCOLS`."""
        return protocol_name(self.num_validation, self.choose_epoch)


KEYS = tuple(field for field in Experiment._fields if field not in ("name", "seed", "shard"))
"""What a config says."""


def read_experiment(
    path: str, typed: Mapping[str, str], seed: str | None = None, shard: str | None = None
) -> Experiment:
    """Returns the experiment of a config file, or that of a run whose `config.json` is named.

    Args:
        path: The file, as `config_files.read_file` takes it.
        typed: Values of keys that replace the file's.
        seed: As typed; by default that of the run, or 0.
        shard: `i/n`; by default that of the run, or all trials.

    Raises:
        UserError: The file cannot be read, or as `read_config`.
    """
    found = read_file(path)
    changes = {key: read_value(text) for key, text in typed.items()}
    first = plain(found.seed) if seed is None else read_value(seed)
    if isinstance(first, tuple) and changes.get("num_seeds", len(first)) != len(first):
        named = ",".join(map(str, first))
        expected = f"{len(first)}, for the seeds {named}; leave it out, or give another --seed"
        raise _bad("num_seeds", changes["num_seeds"], expected)
    shard = found.shard if shard is None else shard
    return read_config(found.config | changes, found.name, first, shard)


def read_config(
    config: Any, name: str, seed: int | Sequence[int], shard: str = "0/1"
) -> Experiment:
    """Checks every key of a config, once.

    Args:
        config: A ConfigDict or mapping, as a config file gives it.
        name: Of the file.
        seed: Of the first repeated trial; the others follow it. Or all seeds: then `num_seeds` is
            their number, whatever the config says.
        shard: `i/n` for the trials whose number leaves i when divided by n.

    Raises:
        UserError: A key is unknown, missing or has a value that makes no sense.
    """
    for key in config:
        if key not in KEYS:
            known = advice(str(key), KEYS) or f"known: {', '.join(sorted(KEYS))}"
            raise UserError(f"config key {key}: unknown; {known}")
    if missing := sorted(set(KEYS) - set(config)):
        raise UserError(f"config key {missing[0]}: missing; add it, as in configs/l2_sweep.py")
    named = _Kind(f"one of {', '.join(data.DATASETS)}", _is_dataset)
    dataset = data.canonical_name(_one(config, "dataset", named))
    first = plain(seed)
    num_seeds = len(first) if isinstance(first, tuple) else _one(config, "num_seeds", _WHOLE)
    if num_seeds > MAX_TRIALS:
        raise _bad("num_seeds", num_seeds, f"at most {MAX_TRIALS}")
    _check_seed(first, num_seeds)
    num_validation = _one(config, "num_validation", _COUNT)
    num_images = data.NUM_TRAINING_IMAGES[dataset]
    if num_validation >= num_images:
        raise _bad("num_validation", num_validation, f"less than the {num_images} training images")
    experiment = Experiment(
        name=name,
        dataset=dataset,
        num_validation=num_validation,
        choose_epoch=_one(config, "choose_epoch", _FLAG),
        **{axis: _axis(config, axis, kind) for axis, kind in _AXES.items()},
        grid=_one(config, "grid", _choice(grid.GRIDS)),
        num_points=_one(config, "num_points", _COUNT),
        design_seed=_one(config, "design_seed", _SEED),
        num_seeds=num_seeds,
        checkpoint_epochs=_one(config, "checkpoint_epochs", _WHOLE),
        checkpoints_kept=_one(config, "checkpoints_kept", _WHOLE),
        platform=_one(config, "platform", _choice(("", *COMPUTED))),
        devices=_one(config, "devices", _COUNT),
        precision=_one(config, "precision", _choice(tuple(PRECISIONS))),
        deterministic=_one(config, "deterministic", _FLAG),
        seed=first,
        shard=shard,
    )
    searches = experiment.grid in ("random", "halton")
    if bool(experiment.num_points) != searches:
        expected_number = "1 or more, the points to draw" if searches else "0"
        problem = f"{expected_number}, with --config.grid={experiment.grid}"
        raise _bad("num_points", experiment.num_points, problem)
    sizes = [len(getattr(experiment, axis)) for axis in grid.AXES]
    most = math.prod(sizes) if experiment.grid == "product" else max(sizes)
    if (num_trials := num_seeds * (experiment.num_points or most)) > MAX_TRIALS:
        raise UserError(
            f"the config asks for {num_trials} trials: expected at most {MAX_TRIALS}; give fewer "
            "values, num_points or num_seeds"
        )
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    if match and int(match[2]) <= num_trials:  # else points need not be made
        points = experiment.points
        for point in points:
            _check_point(point, num_images - num_validation)
        num_trials = len(points) * num_seeds
    if not (match and int(match[1]) < int(match[2]) <= num_trials):
        raise UserError(
            f"--shard={shard}: expected i/n with i from 0 to n - 1 and n at most {num_trials}, the "
            "number of trials"
        )
    return experiment


def _check_seed(seed: Any, num_seeds: int) -> None:
    """Refuses a seed, or seeds, that no random numbers can be made of."""
    several = isinstance(seed, tuple)
    highest = 2**32 - (1 if several else num_seeds)
    seeds = seed if several else (seed,)
    if not (seeds and all(type(s) is int and 0 <= s <= highest for s in seeds)):
        expected = f"a whole number from 0 to {highest}, or several as in --seed=42,123,456"
    elif len(set(seeds)) < num_seeds and several:
        expected = "seeds that differ, since the same seed makes the same trial"
    else:
        return
    raise UserError(f"--seed={','.join(map(str, seeds))}: expected {expected}")


def _check_point(point: Point, num_images: int) -> None:
    """Refuses values that do not fit each other."""
    if point.batch_size > num_images:
        raise _bad("batch_size", point.batch_size, f"at most {num_images}, the training images")
    if len(point.conv_features) > 3:
        blocks = "at most 3 blocks, which leave 1 pixel of 28"
        raise _bad("conv_features", point.conv_features, blocks)
    num_steps = point.num_epochs * -(-num_images // point.batch_size)
    if num_steps >= 2**31:
        raise _bad("num_epochs", point.num_epochs, f"fewer than {2**31} training steps")
    if point.warmup_steps >= num_steps:
        raise _bad("warmup_steps", point.warmup_steps, f"less than all {num_steps} training steps")
    if point.nesterov and not point.momentum:
        raise _bad("nesterov", True, "False, or a momentum above 0: without one there is nothing")
    if not (point.conv_features or point.hidden_sizes or point.l2_on_output):
        for key in ("l2", "weight_decay"):
            if getattr(point, key):
                expected = "0, or a hidden layer, or l2_on_output=True: there is no kernel for it"
                raise _bad(key, getattr(point, key), expected)


class _Kind(NamedTuple):
    """What a value must be: words for it, the check, and what then makes it of one type."""

    expected: str
    valid: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value


def _number(expected: str, valid: Callable[[float], bool]) -> _Kind:
    def check(value):
        if type(value) not in (int, float):
            return False
        rounded = _in_32_bits(value)
        return math.isfinite(rounded) and valid(rounded) and bool(rounded) == bool(value)

    return _Kind(f"a finite number, {expected}, in 32 bits", check, float)


def _in_32_bits(value: int | float) -> float:
    try:
        return struct.unpack("f", struct.pack("f", float(value)))[0]
    except OverflowError:
        return math.inf


def _choice(names: tuple[str, ...]) -> _Kind:
    words = ", ".join(name or "''" for name in names)
    return _Kind(f"one of {words}", lambda value: isinstance(value, str) and value in names)


def _is_dataset(value) -> bool:
    return isinstance(value, str) and data.canonical_name(value) in data.DATASETS


def _is_sizes(value) -> bool:
    return isinstance(value, tuple) and all(type(v) is int and 0 < v <= MAX_SIZE for v in value)


_FLAG = _Kind("True or False", lambda value: isinstance(value, bool))
_WHOLE = _Kind("a whole number of at least 1", lambda value: type(value) is int and value >= 1)
_COUNT = _Kind("a whole number of at least 0", lambda value: type(value) is int and value >= 0)
_SEED = _Kind(
    f"a whole number from 0 to {2**32 - 1}", lambda value: type(value) is int and 0 <= value < 2**32
)
_SIZES = _Kind(f"a tuple of whole numbers from 1 to {MAX_SIZE}", _is_sizes)
_AXES = {
    "conv_features": _SIZES,
    "hidden_sizes": _SIZES,
    "num_epochs": _WHOLE,
    "batch_size": _WHOLE,
    "nesterov": _FLAG,
    "learning_rate": _number("positive", lambda x: x > 0),
    "schedule": _choice(grid.SCHEDULES),
    "warmup_steps": _COUNT,
    "momentum": _number("from 0 to below 1", lambda x: 0 <= x < 1),
    "l2": _number("0 or positive", lambda x: x >= 0),
    "l2_on_output": _FLAG,
    "weight_decay": _number("0 or positive", lambda x: x >= 0),
    "label_smoothing": _number("from 0 to below 1", lambda x: 0 <= x < 1),
}


def _bad(key: str, value: object, expected: str) -> UserError:
    return UserError(f"--config.{key}={value}: expected {expected}")


def _one(config: Any, key: str, kind: _Kind) -> Any:
    value = plain(config[key])
    if isinstance(value, tuple) and len(value) == 1:
        (value,) = value
    if not kind.valid(value):
        typed = ",".join(map(str, value)) if isinstance(value, tuple) else value
        raise _bad(key, typed, kind.expected)
    return value


def _axis(config: Any, key: str, kind: _Kind) -> tuple:
    """Reads an axis of the grid: a value, or several of them."""
    value = plain(config[key])
    if kind is _SIZES:  # a value is a tuple itself
        value = (value,) if isinstance(value, int | float) else value
        several = isinstance(value, tuple) and any(isinstance(v, tuple) for v in value)
    else:
        several = isinstance(value, tuple)
    values = value if several else (value,)
    if not values:
        raise _bad(key, value, "at least one value, since the grid has no point without")
    for v in values:
        if not kind.valid(v):
            raise _bad(key, v, kind.expected)
    if len(set(values)) < len(values) and config["grid"] != "list":
        raise _bad(key, value, "distinct values, since each makes a point of the grid")
    return tuple(map(kind.convert, values))


def configure_jax(
    experiment: Experiment,
    num_trials: int | None = None,
    job: str | None = None,
    timeout: float = hosts.TIMEOUT,
    common: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Sets JAX up for an experiment, as `machine.configure_jax`.

    Args:
        experiment: What to train.
        num_trials: The most that train together; none takes what the experiment asks for.
        job: The job of several processes that this one joins.
        timeout: Seconds for that job to come together.
        common: What its processes must have in common beside the experiment.

    Returns:
        What runs the trials and how, for the record.
    """
    try:
        from mnist_jax import machine
    except ValueError as error:  # of a JAX_* variable
        raise UserError(f"JAX cannot start: {error}; mend or unset that variable") from None

    sizes = [num_trials] if num_trials else list(map(len, experiment.parts.values()))
    machine.configure_jax(
        max(sizes),
        platform=experiment.platform,
        devices=experiment.devices,
        precision=experiment.precision,
        deterministic=experiment.deterministic,
        job=job,
        timeout=timeout,
    )
    hosts.compare({**experiment._asdict(), **common})
    machine.devices_for(min(sizes), experiment.devices)
    return machine.describe_devices(machine.devices_for(max(sizes), experiment.devices))


def load_data(experiment: Experiment, data_dir: str | None) -> data.Dataset:
    """Loads an experiment's data set, cut into its splits."""
    dataset = data.load_dataset(experiment.dataset, data_dir)
    return data.hold_out_validation(dataset, experiment.num_validation, experiment.design_seed)


def static_choices(experiment: Experiment, point: Point, num_classes: int) -> dict[str, Any]:
    """Returns the arguments of `sweep.compile_sweep` that shape a point's program."""
    from mnist_jax import models

    protocol = PROTOCOLS[experiment.protocol]
    model = models.create_model(
        conv_features=point.conv_features,
        hidden_sizes=point.hidden_sizes,
        num_classes=num_classes,
    )
    return {
        "model": model,
        "batch_size": point.batch_size,
        "nesterov": point.nesterov,
        "held_out": protocol.held_out,
        "choose_epoch": protocol.choose_epoch,
    }
