"""The notebook's CNN in Keras itself, to tell luck from a difference between the programs.

    pip install -e '.[bench]' && python experiments/dat407_a7/keras_cnn.py SEED [DATA_DIR]

Prints a JSON object per epoch, as in `keras_cnn.jsonl`.
"""

import json
import os
import sys

import numpy as np

from mnist_jax import data

os.environ["KERAS_BACKEND"] = "tensorflow"


def main(seed: int, data_dir: str | None) -> None:
    """Trains one network for ten epochs, scored on the test set."""
    import keras
    import tensorflow as tf
    from keras import layers

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dataset = data.load_dataset("mnist", data_dir)
    keras.utils.set_random_seed(seed)

    def prepare(images, labels):
        return images[..., None].astype(np.float32) / 255, keras.utils.to_categorical(labels)

    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    sgd = keras.optimizers.SGD(0.1)
    model.compile(sgd, loss="categorical_crossentropy", metrics=["accuracy"])

    def show(epoch, logs):
        numbers = {name: round(value, 4) for name, value in logs.items()}
        print(json.dumps({"seed": seed, "epoch": epoch + 1, **numbers}), flush=True)

    model.fit(
        *prepare(dataset.train_images, dataset.train_labels),
        batch_size=64,
        epochs=10,
        validation_data=prepare(dataset.test_images, dataset.test_labels),
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=show)],
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or [None]))
