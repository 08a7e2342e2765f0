"""From an experiment to the recipe of each program and the arrays of its trials."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mnist_jax import UserError
from mnist_jax.config.axes import OPTIMIZERS, SCHEDULES, Axis
from mnist_jax.config.columns import METRICS, metric_name
from mnist_jax.config.experiment import Experiment
from mnist_jax.config.grid import Point
from mnist_jax.config.keys import find_own
from mnist_jax.config.protocol import PROTOCOLS
from mnist_jax.config.user_axes import NUM_CLASSES
from mnist_jax.data.datasets import num_batches
from mnist_jax.data.splits import Dataset, moments
from mnist_jax.training import metrics, models, networks, optimizers
from mnist_jax.training.trial import Hyperparameters, Recipe

EVAL_BATCH_SIZE = 400
MAX_SHIFT = 2  # pixels, of augmentation=shift


def create_trials(
    points: Sequence[Point], seeds: Sequence[int], num_images: int, known: Mapping[str, Axis]
) -> Hyperparameters:
    """Returns every point with every seed, as NumPy arrays of shape [trials]; seeds vary fastest.

    All points have the same seeds, so that they can be compared in pairs. `num_images` in an epoch
    give the number of steps. The `known` axes are by name; where a point lacks one, it is 0.
    """

    def numbers(name: str) -> np.ndarray:
        values = [point[name] or 0 for point in points]
        kind = known[name].kind.convert
        if kind is str:
            values = list(map(SCHEDULES.index, values))
        dtype = np.int32 if kind in (int, str) else np.float32
        return np.repeat(np.array(values, dtype), len(seeds))

    def of(what: str) -> dict[str, Any]:
        traced = [axis for axis in known.values() if axis.traced and axis.of == what]
        return {axis.name: numbers(axis.name) for axis in traced}

    optimizer = of("optimizer")
    steps = [point["num_epochs"] * num_batches(num_images, point["batch_size"]) for point in points]
    return Hyperparameters(
        seed=np.tile(np.array(seeds, np.uint32), len(points)),
        num_steps=np.repeat(np.array(steps, np.int32), len(seeds)),
        learning_rate=optimizer.pop("learning_rate"),
        model=of("model"),
        optimizer=optimizer,
        **of(""),
    )


def create_recipe(
    experiment: Experiment,
    part: Sequence[int],
    dataset: Dataset | None = None,
) -> tuple[Recipe, Hyperparameters]:
    """Returns the recipe that trials that train together share, and their hyper-parameters.

    Args:
        experiment: The trials' experiment.
        part: The numbers of the trials; they have the same static choices.
        dataset: What they train on; none if the recipe is only looked at, and trains nothing.

    Raises:
        UserError: Model, optimizer or a metric cannot be used.
    """
    num_seeds, known, point = experiment.num_seeds, experiment.axes, experiment.point_of(part[0])
    numbers = sorted({trial // num_seeds for trial in part})
    place = {number: i * num_seeds for i, number in enumerate(numbers)}
    points = [experiment.points[number] for number in numbers]
    num_images = len(dataset.train_labels) if dataset else 1
    every = create_trials(points, experiment.seeds, num_images, known)
    chosen = np.array([place[trial // num_seeds] + trial % num_seeds for trial in part])
    trials = jax.tree.map(lambda x: x[chosen], every)
    network = _create_network(experiment, point)
    spec = point["optimizer"]
    takes = [n for n, axis in known.items() if axis.of == "optimizer" and point[n] is not None]
    trials = trials._replace(
        model={name: trials.model[name] for name in network.numbers},
        optimizer={name: x for name, x in trials.optimizer.items() if name in takes},
    )
    static = {name: point[name] for name in takes if not known[name].traced}
    own = spec not in OPTIMIZERS
    make = find_own(spec, "optimizer", experiment.own_files) if own else spec
    optimizer = optimizers.create_optimizer(make, static, trials.optimizer, network.output)
    if own:
        params = networks.shapes(network)["params"]
        optimizers.check_optimizer(optimizer, spec, params, trials.optimizer)
    protocol, standard = PROTOCOLS[experiment.protocol], point["scaling"] == "standard"
    recipe = Recipe(
        network=network,
        optimizer=optimizer,
        batch_size=point["batch_size"],
        eval_batch_size=EVAL_BATCH_SIZE,
        held_out=protocol.held_out,
        choose_epoch=protocol.choose_epoch,
        use_ema=bool(np.any(trials.ema_decay)),
        metrics=_metrics(experiment),
        moments=moments(dataset.train_images) if standard and dataset else None,
        max_shift=MAX_SHIFT if point["augmentation"] == "shift" else 0,
    )
    return recipe, trials


def check(experiment: Experiment) -> None:
    """Makes sure, without computing anything, that the user's own code can be trained.

    Raises:
        UserError: A model, an optimizer or a metric cannot be used.
    """
    if experiment.own_files:
        for part in experiment.parts.values():
            recipe, _ = create_recipe(experiment, part)
            points = [experiment.point_of(trial) for trial in part]
            numbers = {name: [point[name] for point in points] for name in recipe.network.numbers}
            networks.check_numbers(recipe.network, numbers)


def _create_network(experiment: Experiment, point: Point) -> networks.Network:
    """Returns the network of all points that have the static choices of a given one.

    Raises:
        UserError: It cannot be used, or these points differ in a field that its shapes depend on.
    """
    name, data = experiment.model, experiment.data
    kind: Any = models.MODELS.get(name) or find_own(name, "model", experiment.own_files)
    fields = [axis.name for axis in experiment.axes.values() if axis.of == "model"]
    static = experiment.static
    options = {key: point[key] for key in fields if key in static}
    if NUM_CLASSES in kind.__dataclass_fields__:
        options[NUM_CLASSES] = data.num_classes
    traced = [key for key in fields if key not in static]
    network = networks.describe(kind(**options), data.image_shape, data.num_classes, traced)
    if not (fixed := [key for key in traced if key not in network.numbers]):
        return network
    same = [p for p in experiment.points if all(p[name] == point[name] for name in static)]
    for key in fixed:
        if len(values := {p[key]: None for p in same}) > 1:
            raise UserError(
                f"--config.{key}={','.join(map(str, values))}: expected one value, since shapes or"
                f" branches in {name} depend on it; annotate it Annotated[float, 'static'], or use"
                " what takes a traced number, as mnist_jax.layers.Dropout does"
            )
        options[key] = point[key]
    return networks.describe(kind(**options), data.image_shape, data.num_classes, network.numbers)


def _metrics(experiment: Experiment) -> tuple[tuple[str, Callable], ...]:
    functions = {}
    for spec in experiment.metrics:
        if spec in METRICS:
            measure = getattr(metrics, spec)
        else:
            measure = find_own(spec, "metrics", experiment.own_files)
            metrics.check_metric(measure, spec, experiment.data.num_classes)
        functions[metric_name(spec)] = measure
    return tuple(functions.items())
