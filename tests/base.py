"""A point of a grid that tests change where they need another, and what trains it."""

from mnist_jax.config.keys import find_axes
from mnist_jax.training import models, networks, optimizers, recipes, sweep, trial
from mnist_jax.training.trial import Hyperparameters, Recipe

AXES = find_axes("cnn", ("sgd",))
"""Those of a config whose model is "cnn", which without blocks is "mlp"."""
BASE = {axis.name: axis.default for axis in AXES.values()} | {
    "conv_features": (),
    "hidden_sizes": (8,),
    "num_epochs": 2,
    "batch_size": 16,
}


def create_model(conv_features=(), hidden_sizes=(8,), num_classes=10):
    """Returns the network of a point, as a config's "cnn" or "mlp"."""
    if conv_features:
        return models.CNN(tuple(conv_features), tuple(hidden_sizes), num_classes)
    return models.MLP(tuple(hidden_sizes), num_classes)


def create_trials(points, seeds, num_images, known=AXES) -> Hyperparameters:
    """Returns every point with every seed, without numbers for the model."""
    return recipes.create_trials(points, seeds, num_images, known)


def create_recipe(
    model,
    trials,
    *,
    image_shape=(28, 28, 1),
    num_classes=10,
    batch_size=16,
    nesterov=False,
    held_out="test",
    choose_epoch=True,
    **more,
) -> Recipe:
    """Returns the recipe of trials by SGD."""
    network = networks.describe(model, image_shape, num_classes)
    return Recipe(
        network=network,
        optimizer=optimizers.create_optimizer(
            "sgd", {"nesterov": nesterov}, trials.optimizer, network.output
        ),
        batch_size=batch_size,
        eval_batch_size=recipes.EVAL_BATCH_SIZE,
        held_out=held_out,
        choose_epoch=choose_epoch,
        use_ema=bool(trials.ema_decay.any()),
        **more,
    )


def compile_sweep(model, trials, dataset, num_devices=0, epoch=trial.run_epoch, **static):
    """Compiles a sweep of trials by SGD."""
    recipe = create_recipe(model, trials, **static)
    return sweep.compile_sweep(recipe, trials, dataset, num_devices=num_devices, epoch=epoch)
