"""What an exported file says of itself."""

from typing import Any

from mnist_jax import __version__
from mnist_jax.disk import to_json
from mnist_jax.export.formats import PRODUCER
from mnist_jax.runs import results
from mnist_jax.runs.trained_trial import TrainedTrial


def describe(trained: TrainedTrial) -> dict[str, str]:
    """Returns names and values; lists and numbers by name are JSON."""
    run, row, experiment = trained.run, trained.row, trained.experiment
    height, width, channels = trained.image_shape
    pixels = f"[batch, {height}, {width}{f', {channels}' * (channels > 1)}]"
    protocol, made = results.protocol(run), run.summary["provenance"]
    measured = f"{protocol.measure}; {protocol.words}"
    if stopped := row.get("stopped_epoch"):
        measured = f"not measured: halving stopped the trial after epoch {stopped}"
    point = experiment.point_of(trained.number)
    of_model = [axis.name for axis in experiment.axes.values() if axis.of == "model"]
    found: dict[str, Any] = {
        "producer": PRODUCER,
        "producer_version": __version__,
        "model": experiment.model,
        "model_fields": {name: point[name] for name in of_model},
        "layers": trained.layers,
        "input": f"{'float32' if trained.takes_floats else 'uint8'} {pixels}",
        "image_shape": trained.image_shape,
        "scaling": _scaling(trained),
        **(trained.moments._asdict() if trained.moments else {}),
        "output": f"probabilities, float32 [batch, {len(trained.class_names)}]",
        "class_names": trained.class_names,
        "dataset": run.summary["dataset"],
        "data_checksum": made["data_checksum"],
        "run": run.config["name"],
        "trial": trained.number,
        "seed": row["seed"],
        "hyperparameters": {axis: point[axis] for axis in run.axes},
        "protocol": run.summary["protocol"],
        "test_accuracy": row[protocol.column],
        "test_accuracy_is": measured,
        "trained_with": made.get("versions", {}).get("mnist_jax"),
        "commit": made.get("commit"),
    }
    return {
        name: value if isinstance(value, str) else to_json(value)
        for name, value in found.items()
        if value is not None
    }


def _scaling(trained: TrainedTrial) -> str:
    """Says what the network sees of a pixel."""
    pixel = "pixel" if trained.takes_floats else "pixel / 255"
    return f"({pixel} - mean) / deviation, by channel" if trained.moments else pixel
