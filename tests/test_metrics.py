import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mnist_jax import UserError
from mnist_jax.config import columns
from mnist_jax.training import metrics

BATCH, CLASSES = 400, 5


@pytest.fixture(scope="module")
def logits():
    return 3 * np.random.default_rng(0).standard_normal((BATCH, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def labels():
    return np.random.default_rng(1).integers(0, CLASSES, BATCH).astype(np.int32)


def softmax(logits):
    exponentials = np.exp(logits.astype(np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def measured(name, logits, labels):
    return np.asarray(jax.jit(getattr(metrics, name))(jnp.asarray(logits), jnp.asarray(labels)))


def test_metrics_equal_their_definitions(logits, labels):
    probabilities = softmax(logits)
    targets = np.eye(CLASSES)[labels]
    two = np.argsort(-logits, axis=1)[:, :2]
    expected = {
        "top_2_accuracy": np.any(two == labels[:, None], axis=1),
        "brier_score": np.sum((probabilities - targets) ** 2, axis=1),
        "confidence": probabilities.max(axis=1),
    }
    assert set(expected) == set(columns.METRICS)
    for name, values in expected.items():
        found = measured(name, logits, labels)
        assert (found.shape, found.dtype) == ((BATCH,), np.float32)
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
        metrics.check_metric(getattr(metrics, name), name, CLASSES)


def test_two_classes_that_are_equally_likely_are_the_first_ones():
    found = measured("top_2_accuracy", np.zeros((4, 4), np.float32), np.arange(4, dtype=np.int32))
    np.testing.assert_array_equal(found, [1, 1, 0, 0])


def test_the_brier_score_goes_from_0_to_2():
    sure = np.float32([[100, 0, 0], [100, 0, 0]])
    np.testing.assert_allclose(measured("brier_score", sure, np.int32([0, 2])), [0, 2])
    even = measured("brier_score", np.zeros((1, 10), np.float32), np.int32([3]))
    np.testing.assert_allclose(even, 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    "specs",
    [
        ("confidence", "confidence"),
        ("a.py:f", "b.py:f"),
        ("a.py:confidence", "confidence"),
        ("a.py:loss",),
        ("a.py:accuracy_at_best_validation",),
    ],
)
def test_metrics_that_would_share_a_column_are_refused(specs):
    with pytest.raises(UserError, match=f"--config.metrics={specs[0]}: expected a name of its own"):
        columns.check_metrics(specs)


def test_every_name_has_its_function():
    columns.check_metrics(("a.py:f", "a.py:g", *columns.METRICS))
    assert all(callable(getattr(metrics, name)) for name in columns.METRICS)


@pytest.mark.parametrize(
    "function",
    [
        lambda logits, labels: logits.argmax(axis=1) == labels,
        lambda logits, labels: labels,
        lambda logits, labels: jnp.var(logits, axis=1),
    ],
)
def test_ones_own_gives_a_number_an_image(function):
    metrics.check_metric(function, "my.py:f", 10)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda logits, labels: logits.mean(), "gives float32 of shape () for 11 images; expected"),
        (lambda logits, labels: logits.mean(axis=0), "gives float32 of shape (10,) for 11 images"),
        (lambda logits, labels: logits, "gives float32 of shape (11, 10) for 11 images"),
        (lambda logits, labels: labels + 1j, "gives complex64 of shape (11,) for 11 images"),
        (lambda logits, labels: None, "gives NoneType for 11 images; expected a number an image"),
        (lambda logits, labels: (labels, labels), "gives tuple for 11 images; expected a number"),
        (
            lambda logits: logits,
            "fails on logits of shape (11, 10) and labels of shape (11,), both",
        ),
        (
            lambda logits, labels: np.log(logits),
            "both traced arrays: TracerArrayConversionError (line ",
        ),
        (lambda logits, labels: "abc", "fails on logits of shape (11, 10) and"),
    ],
)
def test_ones_own_that_gives_something_else_is_refused_in_a_line(function, said):
    with pytest.raises(UserError) as refused:
        metrics.check_metric(function, "my_metrics.py:f", 10)
    line = str(refused.value)
    assert line.startswith("--config.metrics=my_metrics.py:f: ")
    assert said in line
    assert "\n" not in line
