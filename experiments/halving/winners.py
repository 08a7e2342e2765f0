"""From what the searches found to recipes, each trained with fresh seeds, and each change's share.

    python experiments/halving/winners.py [STEP ...] [KEY=VALUE ...]

Trains or resumes the steps that are named (by default all of STEPS) and not finished in
runs/halving. They begin with the best points of the searches that are there; a walk goes to what
the others have chosen. A key, as in precision=tf32, is set for all that does not want another
value of it. Validation images choose; the test set is scored once a trial.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mnist_jax
from mnist_jax import default_config
from mnist_jax.config.experiment import read_experiment
from mnist_jax.runs import choosing, results

RUNS = Path("runs/halving")
Recipe = Mapping[str, Any]

KEYS = ("optimizer", "num_epochs", "batch_size", "scaling", "augmentation", "nesterov",
        "learning_rate", "schedule", "momentum", "b1", "b2", "l2", "l2_on_output", "weight_decay",
        "label_smoothing", "ema_decay", "flat_dropout", "hidden_dropout")  # fmt: skip
WITH_DROPOUT = "configs/cnn_with_dropout.py:CNN"
more: dict[str, str] = {}  # keys of the command line


def recipe_of(point: Recipe) -> dict[str, Any]:
    """Returns the keys of a grid point that make its recipe."""
    return {key: point[key] for key in KEYS if point.get(key) is not None}


def read_config(name: str) -> dict[str, Any]:
    """Returns the recipe of a config that comes with the package."""
    (point,) = read_experiment(name, {}).points
    return recipe_of(point)


def read_best(name: str, count: int = 1) -> list[dict[str, Any]]:
    """Returns the recipes of a run's best points, by validation accuracy."""
    points = choosing.ranked(results.read_run(RUNS / name).summary["grid"], "validation_accuracy")
    return [recipe_of(point) for point in points[:count]]


def complete(model: str, recipe: Recipe) -> Recipe:
    """Returns a recipe with the defaults of its optimizer for what it does not say."""
    config = default_config(model, optimizer=recipe["optimizer"])
    return {key: config[key] for key in KEYS if key in config} | dict(recipe)


def train(name: str, model: str, recipes: Sequence[Recipe], seed: int, **keys: Any) -> None:
    """Trains recipes side by side, with the same seeds, unless that is finished."""
    if results.is_finished(RUNS / name):
        return
    if "flat_dropout" in recipes[0]:
        model = WITH_DROPOUT
    recipes = [complete(model, recipe) for recipe in recipes]
    several = tuple(recipe["optimizer"] for recipe in recipes)
    config = default_config(model, optimizer=several if len(set(several)) > 1 else several[0])
    if "hidden_sizes" in config:
        config.hidden_sizes = (500, 300) if model == "mlp" else (64,)
    for key in KEYS[1:]:
        if key in config:
            values = [recipe.get(key, config[key]) for recipe in recipes]
            config[key] = values[0] if len(set(values)) == 1 else tuple(values)
    config.grid = "list"
    mnist_jax.run(config, workdir=RUNS / name, seed=seed, **(more | keys))


def choose(name: str, model: str, recipes: Sequence[Recipe], seed: int) -> None:
    """Trains finalists on what validation images leave."""
    train(name, model, recipes, seed, protocol="validation_last_epoch", num_seeds=4)


def train_winner(name: str, model: str, recipe: Recipe, seed: int) -> None:
    """Trains a recipe with fresh seeds on all training images."""
    train(name, model, [recipe], seed, protocol="last_epoch", num_seeds=20)


def mlp() -> None:
    """Trains the best point of the second search for 784-500-300-10."""
    train_winner("mlp_final", "mlp", *read_best("mlp_refine"), seed=8000)


def cnn() -> None:
    """Lets the best points of three searches compete, and trains the best of them."""
    found = [("cnn_adamw", 2), ("cnn_muon", 1), ("cnn_sgd", 1)]
    choose("cnn_finalists", "cnn", [r for name, n in found for r in read_best(name, n)], seed=7700)
    train_winner("cnn_final", "cnn", *read_best("cnn_finalists"), seed=8100)


def shift() -> None:
    """The same on shifted images, three times as long."""
    other = {"augmentation": "shift", "num_epochs": 81}
    found = read_best("shift_sgd", 3) + read_best("cnn_adamw", 2)
    choose("shift_finalists", "cnn", [recipe | other for recipe in found], seed=7800)
    train_winner("shift_final", "cnn", *read_best("shift_finalists"), seed=8100)


def mlp_again() -> None:
    """Trains the best points of further searches for 784-500-300-10."""
    for name in ("mlp_longer", "mlp_smaller_batch"):
        train_winner(f"{name}_final", "mlp", *read_best(name), seed=8000)


def with_dropout(kind: str, seed: int) -> None:
    """Lets the best points with dropout compete, with the seeds of earlier finalists."""
    found = [r for name in ("muon", "adamw") for r in read_best(f"{kind}_drop_{name}", 3)]
    choose(f"{kind}_drop_finalists", "cnn", found, seed)
    train_winner(f"{kind}_drop_final", "cnn", *read_best(f"{kind}_drop_finalists"), seed=8100)


def cnn_dropout() -> None:
    """Trains the CNN with dropout."""
    with_dropout("cnn", seed=7700)


def shift_dropout() -> None:
    """The same on shifted images."""
    with_dropout("shift", seed=7800)


def walk(name: str, model: str, steps: Mapping[int, Recipe], seed: int, **keys: Any) -> None:
    """Trains the steps on the way to winners, of whose seeds the first ten are these."""
    for number, recipe in steps.items():
        run = f"{name}_{number}"
        train(run, model, [recipe], seed, protocol="last_epoch", num_seeds=10, **keys)


def mlp_walk() -> None:
    """Goes from the recipe of configs/beyond_98_47.py to the winner, some changes at a time."""
    (last,) = read_best("mlp_refine")
    old = {"num_epochs": 40, "label_smoothing": 0.2, "ema_decay": 0.0}
    steps = {
        1: read_config("beyond_98_47"),
        2: last | old | {"weight_decay": 0.0},
        3: last | old,
    }
    walk("mlp_step", "mlp", steps, seed=8000)


def cnn_steps() -> dict[int, Recipe]:
    """Returns recipes from that of configs/beyond_99_19.py almost to the last winner."""
    (last,), (dropping,) = read_best("cnn_finalists"), read_best("cnn_drop_finalists")
    before = read_config("beyond_99_19")
    longer = before | {"num_epochs": 27}
    dropouts = ("flat_dropout", "hidden_dropout")
    return {
        1: before,
        2: longer,
        3: longer | {"ema_decay": last["ema_decay"], "scaling": last["scaling"]},
        4: last,
        5: {key: value for key, value in dropping.items() if key not in dropouts},
        6: dropping | {"augmentation": "shift"},
    }


def cnn_walk() -> None:
    """Goes from the recipe of configs/beyond_99_19.py to the winner on shifted images."""
    walk("cnn_step", "cnn", cnn_steps(), seed=8100)


def cnn_on_cpu() -> None:
    """Trains steps of the walk on a CPU again; of the fourth, `cnn_final` has the seeds."""
    steps = {number: recipe for number, recipe in cnn_steps().items() if number in (1, 2, 3, 5)}
    walk("cnn_cpu", "cnn", steps, seed=8100, platform="cpu", precision="float32")


STEPS: dict[str, Callable[[], None]] = {
    "mlp": mlp, "cnn": cnn, "shift": shift,
    "mlp_again": mlp_again, "cnn_dropout": cnn_dropout, "shift_dropout": shift_dropout,
    "mlp_walk": mlp_walk, "cnn_walk": cnn_walk, "cnn_on_cpu": cnn_on_cpu,
}  # fmt: skip


def main() -> None:
    """Does what the command line names, all of it by default."""
    more.update(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    for name in [word for word in sys.argv[1:] if "=" not in word] or list(STEPS):
        STEPS[name]()


if __name__ == "__main__":
    main()
