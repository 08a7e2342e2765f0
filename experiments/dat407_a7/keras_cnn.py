"""The notebook's CNN in Keras itself, to tell luck from a difference between the programs.

    pip install -e '.[bench]' && python experiments/dat407_a7/keras_cnn.py SEED [DATA_DIR]

Prints a JSON object per epoch, as in `keras_cnn.jsonl`.
"""

import json
import os
import sys

import numpy as np

from mnist_jax.data import loading

os.environ["KERAS_BACKEND"] = "tensorflow"


def main(seed: int, data_dir: str | None) -> None:
    """Trains one network for ten epochs, scored on the test set."""
    import keras
    import tensorflow as tf
    from keras import layers

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dataset = loading.load_dataset("mnist", data_dir)
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

    images, labels = prepare(dataset.train_images, dataset.train_labels)
    test = prepare(dataset.test_images, dataset.test_labels)
    random = np.random.default_rng(seed)
    for epoch in range(1, 11):
        # Keras 3.15 shuffles every epoch the same way once its seed is set, so it is done here.
        order = random.permutation(len(images))
        fitted = model.fit(
            images[order],
            labels[order],
            shuffle=False,
            batch_size=64,
            validation_data=test,
            verbose=0,
        )
        numbers = {name: round(values[0], 4) for name, values in fitted.history.items()}
        print(json.dumps({"seed": seed, "epoch": epoch, **numbers}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *(sys.argv[2:] or [None]))
