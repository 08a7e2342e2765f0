"""From what the searches found to recipes, each trained with fresh seeds, and each change's share.

    python experiments/halving/winners.py [mlp cnn shift mlp_walk cnn_walk] [KEY=VALUE ...]

Trains or resumes what is named (by default all) and not finished in runs/halving. It begins with
the best points of the searches that are there; a walk goes to what the others have chosen. A key,
as in precision=tf32, is set for all. Validation images choose; the test set is scored once a trial.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mnist_jax
from mnist_jax import default_config
from mnist_jax.runs import choosing, results

RUNS = Path("runs/halving")
Recipe = Mapping[str, Any]

KEYS = ("optimizer", "num_epochs", "batch_size", "scaling", "augmentation", "nesterov",
        "learning_rate", "schedule", "momentum", "b2", "l2", "l2_on_output", "weight_decay",
        "label_smoothing", "ema_decay")  # fmt: skip
BEFORE = {"optimizer": "sgd", "batch_size": 64, "schedule": "linear", "momentum": 0.9,
          "l2_on_output": True}  # fmt: skip
MLP_BEFORE = {**BEFORE, "num_epochs": 40, "learning_rate": 0.08, "l2": 1e-4,
              "label_smoothing": 0.2}  # fmt: skip
CNN_BEFORE = {**BEFORE, "num_epochs": 15, "learning_rate": 0.04, "l2": 1e-5,
              "label_smoothing": 0.18}  # fmt: skip
"""The recipes of configs/beyond_98_47.py and configs/beyond_99_19.py."""

more: dict[str, str] = {}  # keys of the command line


def read_best(name: str, count: int = 1) -> list[dict[str, Any]]:
    """Returns the recipes of a run's best points, by validation accuracy."""
    points = choosing.ranked(results.read_run(RUNS / name).summary["grid"], "validation_accuracy")
    return [
        {key: point[key] for key in KEYS if point.get(key) is not None} for point in points[:count]
    ]


def complete(model: str, recipe: Recipe) -> Recipe:
    """Returns a recipe with the defaults of its optimizer for what it does not say."""
    config = default_config(model, optimizer=recipe["optimizer"])
    return {key: config[key] for key in KEYS if key in config} | dict(recipe)


def train(name: str, model: str, recipes: Sequence[Recipe], seed: int, **keys: Any) -> None:
    """Trains recipes side by side, with the same seeds, unless that is finished."""
    if (RUNS / name / "summary.json").exists():
        return
    recipes = [complete(model, recipe) for recipe in recipes]
    several = tuple(recipe["optimizer"] for recipe in recipes)
    config = default_config(model, optimizer=several if len(set(several)) > 1 else several[0])
    config.hidden_sizes = (500, 300) if model == "mlp" else (64,)
    for key in KEYS[1:]:
        if key in config:
            values = [recipe.get(key, config[key]) for recipe in recipes]
            config[key] = values[0] if len(set(values)) == 1 else tuple(values)
    config.grid = "list"
    mnist_jax.run(config, workdir=RUNS / name, seed=seed, **(keys | more))


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


def step(name: str, model: str, recipe: Recipe, seed: int) -> None:
    """Trains a step on the way to a winner, of whose seeds the first ten are these."""
    train(name, model, [recipe], seed, protocol="last_epoch", num_seeds=10)


def mlp_walk() -> None:
    """Goes from the recipe of configs/beyond_98_47.py to the winner, some changes at a time."""
    (last,) = read_best("mlp_refine")
    old = {"num_epochs": 40, "label_smoothing": 0.2, "ema_decay": 0.0}
    steps = [
        MLP_BEFORE,
        last | old | {"weight_decay": 0.0},
        last | old,
    ]
    for number, recipe in enumerate(steps, start=1):
        step(f"mlp_step_{number}", "mlp", recipe, seed=8000)


def cnn_walk() -> None:
    """Goes from the recipe of configs/beyond_99_19.py to both winners, some changes at a time."""
    (last,), (shifted,) = read_best("cnn_finalists"), read_best("shift_finalists")
    averaged = CNN_BEFORE | {"num_epochs": 27, "ema_decay": last["ema_decay"]}
    steps = [
        CNN_BEFORE,
        CNN_BEFORE | {"num_epochs": 27},
        averaged | {"scaling": last["scaling"]},
        last | {"augmentation": "shift"},
        shifted | {"num_epochs": 27},
    ]
    for number, recipe in enumerate(steps, start=1):
        step(f"cnn_step_{number}", "cnn", recipe, seed=8100)


STEPS: dict[str, Callable[[], None]] = {
    "mlp": mlp, "cnn": cnn, "shift": shift, "mlp_walk": mlp_walk, "cnn_walk": cnn_walk
}  # fmt: skip


def main() -> None:
    """Does what the command line names, all of it by default."""
    more.update(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    for name in [word for word in sys.argv[1:] if "=" not in word] or list(STEPS):
        STEPS[name]()


if __name__ == "__main__":
    main()
