import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock

import base
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from base import AXES, BASE
from flax import linen as nn

from mnist_jax import UserError
from mnist_jax.config import grid
from mnist_jax.config.axes import SCHEDULES
from mnist_jax.config.columns import METRICS
from mnist_jax.data.splits import Dataset
from mnist_jax.runs import (
    checkpoints,
    chosen_trial,
    group_training,
    progress,
    records,
    signals,
)
from mnist_jax.runs.provenance import Process
from mnist_jax.training import jax_setup, machine, sweep
from mnist_jax.training import metrics as measures

TESTS = Path(__file__).parent
OPTIONS = {"batch_size": 16, "nesterov": False, "held_out": "test", "choose_epoch": True}


def tiny_dataset(num_train=50, num_validation=0, num_test=20):
    """Random images, whose labels a network can learn: the brightest tenth of the image."""
    rng = np.random.default_rng(0)
    splits = []
    for n in (num_train, num_validation, num_test):
        images = rng.integers(0, 100, (n, 28, 28), np.uint8)
        labels = rng.integers(0, 10, n, np.uint8)
        for image, label in zip(images, labels, strict=True):
            image.reshape(-1)[78 * int(label) : 78 * (int(label) + 1)] = 255
        splits += [images, labels]
    return Dataset("tiny", *splits, tuple("0123456789"), "sha256:0", "made up")


def run(trials, dataset=None, num_epochs=2, conv_features=(), **changes):
    model = base.create_model(conv_features=conv_features, hidden_sizes=(8,))
    program = base.compile_sweep(model, trials, dataset or tiny_dataset(), **(OPTIONS | changes))
    return [metrics for _, metrics in sweep.run(program, num_epochs)]


def trials(seeds=(0,), **axes):
    given = {name: (value,) for name, value in BASE.items()} | axes
    points = grid.make_points(given, dict.fromkeys(AXES), "product", 0, 0)
    return base.create_trials(points, seeds, num_images=50)


def test_trials_are_every_point_with_every_seed():
    made = trials(seeds=(3, 4), learning_rate=(0.1, 0.2), schedule=("linear", "cosine"))
    assert made.seed.tolist() == [3, 4] * 4
    np.testing.assert_allclose(made.learning_rate, [0.1] * 4 + [0.2] * 4)
    assert [SCHEDULES[i] for i in made.schedule] == ["linear"] * 2 + ["cosine"] * 2 + [
        "linear"
    ] * 2 + ["cosine"] * 2
    assert set(made.num_steps.tolist()) == {2 * 4}  # 50 images are 4 steps


@pytest.mark.parametrize("num_images", [5, 2**16, 2**16 + 1])
def test_orders_are_permutations_that_differ_by_seed_and_epoch(num_images):
    seeds = np.array([0, 7], np.uint32)
    orders = np.concatenate([sweep.image_orders(seeds, epoch, num_images) for epoch in (1, 2)])
    assert (np.sort(orders, axis=1) == np.arange(num_images)).all()
    if num_images > 5:
        assert len({order.tobytes() for order in orders}) == 4
    np.testing.assert_array_equal(sweep.image_orders(seeds[1:], 2, num_images)[0], orders[3])


def test_orders_stay_what_they_were():
    """If this fails, NumPy's stream has changed: recorded runs can no longer be repeated."""
    np.testing.assert_array_equal(
        sweep.image_orders(np.array([0, 1], np.uint32), 1, 8),
        [[2, 0, 4, 1, 7, 5, 3, 6], [2, 3, 6, 7, 1, 4, 0, 5]],
    )


@pytest.mark.parametrize("conv_features", [(), pytest.param((2,), marks=pytest.mark.slow)])
def test_a_trial_has_the_bits_of_a_lone_run(optimized, conv_features):
    """Three trials on two devices: one has company, one is followed, one has padding beside it."""
    many = run(trials(seeds=range(3)), conv_features=conv_features)
    for seed in range(3):
        alone = run(trials(seeds=[seed]), conv_features=conv_features)
        for epoch_of_many, epoch_alone in zip(many, alone, strict=True):
            for name, values in epoch_of_many.items():
                assert values.shape == (3,)
                assert values[seed] == epoch_alone[name][0], name


def test_the_same_sweep_gives_the_same_bits_and_another_seed_others(optimized):
    first, second = run(trials(seeds=(0, 1))), run(trials(seeds=(0, 1)))
    for a, b in zip(first, second, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert first[0]["train_loss"][0] != first[0]["train_loss"][1]


def test_every_hyperparameter_reaches_its_trial():
    """One sweep of a plain trial, and of others that differ from it in one thing."""
    changes = {
        "learning_rate": 0.2,
        "schedule": "cosine",
        "warmup_steps": 3,
        "momentum": 0.5,
        "l2": 0.1,
        "weight_decay": 0.1,
        "label_smoothing": 0.1,
        "ema_decay": 0.1,
    }
    changed = [{}, *({key: value} for key, value in changes.items()), {"schedule": "linear"}]
    changed.append({"l2": 0.1, "l2_on_output": True})
    several = base.create_trials([BASE | change for change in changed], [0], num_images=50)
    last = run(several)[-1]
    plain, *others = last["test_loss"]
    for change, loss in zip(changed[1:], others, strict=True):
        assert loss != plain, change
    l2 = changed.index({"l2": 0.1})
    assert last["test_objective"][0] == plain
    assert last["test_objective"][l2] > last["test_loss"][l2]
    assert last["test_objective"][-1] != last["test_objective"][l2]
    nesterov = run(several, nesterov=True)[-1]["test_loss"]
    assert (nesterov != last["test_loss"]).tolist() == [set(c) == {"momentum"} for c in changed]


def test_only_traced_values_share_programs(monkeypatch):
    """Whatever else changes is compiled anew; the newest programs are kept."""
    monkeypatch.setattr(sweep, "_known", {})
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *_, **__: None)

    def num_kept(trials, dataset=None, **changes):
        recipe = base.create_model(conv_features=(), hidden_sizes=(8,))
        base.compile_sweep(recipe, trials, dataset or tiny_dataset(), **(OPTIONS | changes))
        return len(sweep._known)

    two = {"learning_rate": (0.1, 0.2)}
    assert num_kept(trials(**two)) == 1
    assert num_kept(trials(seeds=(5,), learning_rate=(0.3, 0.1), l2=(0.1,))) == 1
    assert num_kept(trials(seeds=(5, 6))) == 2  # as many trials, but of two seeds
    assert num_kept(trials(**two), tiny_dataset(40)) == 3
    assert num_kept(trials(**two), batch_size=8) == 4
    with jax.default_matmul_precision("highest"):
        assert num_kept(trials(**two)) == 5
    monkeypatch.setattr(sweep, "_MOST_KNOWN", 1)
    assert num_kept(trials(**two)) == 1


def test_it_learns():
    metrics = run(trials(learning_rate=(0.1,), momentum=(0.9,)), tiny_dataset(500), num_epochs=10)
    assert metrics[-1]["train_loss"] < 0.5 * metrics[0]["train_loss"]
    assert metrics[-1]["test_accuracy"] > 0.5


def test_a_diverging_trial_leaves_the_others_alone():
    both = run(trials(learning_rate=(0.1, 1e30)))[-1]
    assert both["test_loss"][0] == run(trials())[-1]["test_loss"][0]
    assert not np.isfinite(both["test_loss"][1])
    assert np.isnan(both["test_accuracy"][1])


def test_metrics_are_means_over_a_split_and_no_numbers_once_a_trial_diverged():
    measured = tuple((name, getattr(measures, name)) for name in METRICS)
    both = run(trials(learning_rate=(0.1, 1e30)), metrics=measured)[-1]
    for name in METRICS:
        assert np.isnan(both[f"test_{name}"][1]), name
        assert 0 < both[f"train_{name}"][0] < 2
    assert both["test_accuracy"][0] <= both["test_top_2_accuracy"][0] <= 1
    assert both["test_top_2_accuracy"][0] * 20 == round(both["test_top_2_accuracy"][0] * 20)


@pytest.mark.parametrize(
    ("held_out", "choose_epoch"),
    [("validation", True), pytest.param("test", True, marks=pytest.mark.slow), (None, False)],
)
def test_only_the_held_out_split_is_scored_before_the_end(held_out, choose_epoch):
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    dataset = tiny_dataset(num_validation=30)
    options = OPTIONS | {"held_out": held_out, "choose_epoch": choose_epoch}
    program = base.compile_sweep(model, trials(seeds=range(3)), dataset, **options)
    epochs = list(sweep.run(program, 2))
    splits = {"train", held_out} - {None}
    assert {name.split("_")[0] for name in epochs[0][1]} == splits
    if held_out == "test":
        assert program.score_test is None
        return
    scores = sweep.score_test(program, epochs[-1][0])
    chosen = {"test_accuracy_at_best_validation"} if choose_epoch else set()
    assert set(scores) == {"test_loss", "test_accuracy", "test_objective"} | chosen
    seen = run(trials(seeds=range(3)), dataset)[-1]
    np.testing.assert_allclose(scores["test_loss"], seen["test_loss"], rtol=1e-6)


def test_the_chosen_epochs_test_accuracy_is_that_of_its_epoch():
    dataset, seeds = tiny_dataset(num_validation=30), trials(seeds=range(3), learning_rate=(0.3,))
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    options = OPTIONS | {"held_out": "validation"}
    program = base.compile_sweep(model, seeds, dataset, **options)
    *_, (state, _) = epochs = list(sweep.run(program, 6))
    validation = np.array([metrics["validation_accuracy"] for _, metrics in epochs])
    test = np.array([metrics["test_accuracy"] for metrics in run(seeds, dataset, num_epochs=6)])
    best = validation.argmax(axis=0)  # the first of the highest
    assert len(set(best.tolist())) > 1 or best[0] != 5
    scores = sweep.score_test(program, state)
    np.testing.assert_allclose(
        scores["test_accuracy_at_best_validation"], test[best, [0, 1, 2]], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("capability", "before"), [("7.5", True), ("8.0", False), ("gfx90a", False), (None, False)]
)
def test_tensor_cores_that_round_factors_came_with_ampere(capability, before):
    known = {"compute_capability": capability} if capability else {}
    device = mock.MagicMock(jax.Device, **known)
    assert jax_setup._is_before_ampere(device) == before


def test_a_trials_chosen_weights_predict_what_was_scored():
    dataset, two = tiny_dataset(), trials(seeds=(0, 1))
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    program = base.compile_sweep(model, two, dataset, **OPTIONS)
    *_, (state, _) = epochs = list(sweep.run(program, 3))
    variables = sweep.chosen_weights(state, 1)
    hyper = sweep.trial_of(two, 1)
    probabilities = sweep.predict(program.recipe, hyper, variables, dataset.test_images)
    best = max(metrics["test_accuracy"][1] for _, metrics in epochs)
    right = probabilities.argmax(axis=1) == dataset.test_labels
    assert right.mean() == pytest.approx(best)
    assert variables["params"]["hidden_1"]["kernel"].shape == (784, 8)


class Half(nn.Module):
    """A layer whose numbers have 16 bits."""

    @nn.compact
    def __call__(self, images):
        images = images.reshape(len(images), -1)
        return nn.Dense(10, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)(images)


@pytest.mark.slow
def test_a_model_may_compute_in_fewer_bits(tmp_path):
    """Sums are in 32 bits all the same, and what is kept of a trial can be read back."""
    dataset, one = tiny_dataset(), trials()
    program = base.compile_sweep(Half(), one, dataset, **OPTIONS)
    *_, (state, metrics) = sweep.run(program, 2)
    variables = sweep.chosen_weights(state, 0)
    hyper = sweep.trial_of(one, 0)
    seen = sweep.predict(program.recipe, hyper, variables, dataset.test_images)
    of_labels = seen[np.arange(len(seen)), dataset.test_labels]
    assert metrics["test_loss"] == pytest.approx(-np.log(of_labels).mean())
    chosen_trial.write_chosen_trial(tmp_path, 0, variables, seen, dataset)
    kept = chosen_trial.read_chosen_trial(tmp_path)
    weights = variables["params"]["Dense_0"]["kernel"]
    assert weights.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kept["params/Dense_0/kernel"], weights.astype(np.float32))


def test_test_labels_choose_nothing_that_validation_images_choose():
    """Shuffled test labels change the test scores, and nothing that is chosen."""
    dataset, grid_of_trials = tiny_dataset(num_validation=30), trials(range(2), l2=(0.0, 0.3))
    shuffled = dataset._replace(test_labels=np.roll(dataset.test_labels, 1))
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    seen = []
    for data in (dataset, shuffled):
        options = OPTIONS | {"held_out": "validation"}
        program = base.compile_sweep(model, grid_of_trials, data, **options)
        *_, (state, _) = epochs = list(sweep.run(program, 4))
        seen.append(
            ([metrics for _, metrics in epochs], state.best, sweep.score_test(program, state))
        )
    (metrics, best, scores), (others, other_best, other_scores) = seen
    jax.tree.map(np.testing.assert_array_equal, metrics, others)
    jax.tree.map(np.testing.assert_array_equal, best, other_best)
    assert (scores["test_accuracy"] != other_scores["test_accuracy"]).any()


def test_epochs_whose_state_is_not_wanted_run_ahead_with_the_same_bits(optimized):
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    program = base.compile_sweep(model, trials(seeds=range(3)), tiny_dataset(), **OPTIONS)
    kept = [jax.device_get(state) for state, _ in sweep.run(program, 5)]
    calls = []

    def run_epoch(*inputs):
        calls.append(len(seen))
        return program.run_epoch(*inputs)

    seen = []
    for state, metrics in sweep.run(
        program._replace(run_epoch=run_epoch), 5, keep=lambda epoch, _: epoch == 3
    ):
        seen.append((jax.device_get(state), metrics))
    assert calls == [0, 0, 1, 3, 3]  # how many epochs the caller had seen when one was started
    assert [state is None for state, _ in seen] == [True, True, False, True, False]
    jax.tree.map(np.testing.assert_array_equal, seen[2][0], kept[2])
    jax.tree.map(np.testing.assert_array_equal, seen[4][0], kept[4])
    for (_, ahead), metrics in zip(seen, run(trials(seeds=range(3)), num_epochs=5), strict=True):
        jax.tree.map(np.testing.assert_array_equal, ahead, metrics)


def test_orders_are_made_while_the_epoch_before_runs_and_not_earlier(monkeypatch):
    made, image_orders = [threading.Event() for _ in range(6)], sweep.image_orders
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    program = base.compile_sweep(model, trials(seeds=(3, 4)), tiny_dataset(), **OPTIONS)
    begun = []

    def make(seeds, epoch, num_images):
        made[epoch].set()
        return image_orders(seeds, epoch, num_images)

    def run_epoch(state, orders, *inputs):
        epoch = len(begun) + 2  # the first is done
        begun.append(epoch)
        np.testing.assert_array_equal(orders, image_orders(np.array([3, 4]), epoch, 50))
        assert epoch == 5 or made[epoch + 1].wait(60)
        assert [event.is_set() for event in made[epoch + 2 :]] == [False] * max(0, 4 - epoch)
        return program.run_epoch(state, orders, *inputs)

    monkeypatch.setattr(sweep, "image_orders", make)
    state = program.initialise(program.inputs[0])
    before = threading.active_count()
    assert len(list(sweep.run(program._replace(run_epoch=run_epoch), 5, 1, state))) == 4
    assert begun == [2, 3, 4, 5]
    next(epochs := sweep.run(program, 5))
    epochs.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(("seconds", "last"), [(0, 3), (math.inf, 4)])
def test_rows_are_written_beside_the_next_epoch(tmp_path, monkeypatch, seconds, last):
    """A signal comes while an epoch runs, a long one (the third) or a short one (the fourth)."""
    monkeypatch.setattr(group_training, "LONG_EPOCH", seconds)
    model = base.create_model(conv_features=(), hidden_sizes=(8,))
    program = base.compile_sweep(model, trials(), tiny_dataset(), **OPTIONS)
    events, stop, add = [], signals.StopSignals(), records.Recorder.add
    ready = jax.block_until_ready

    def run_epoch(*inputs):
        events.append("begins")
        if seconds and events.count("begins") == 4:
            stop.number = signal.SIGTERM
        return program.run_epoch(*inputs)

    def wait(sums):
        if events.count("begins") == 3:
            stop.number = signal.SIGTERM
        return ready(sums)

    def record(recorder, epoch, metrics):
        events.append(epoch)
        add(recorder, epoch, metrics)

    monkeypatch.setattr(jax, "block_until_ready", wait)
    monkeypatch.setattr(records.Recorder, "add", record)
    recorder = records.Recorder(tmp_path, [{"trial": 0, "seed": 0}], (), "test")
    with checkpoints.Checkpoints(tmp_path, run="", num_trials=1, keep=9) as saved:
        monkeypatch.setattr(saved, "ready", lambda after: False)
        training = group_training.GroupTraining(
            program._replace(run_epoch=run_epoch), 6, 1, recorder, saved,
            Process(), stop, progress.quiet(bar=False),
        )  # fmt: skip
        training.train()
        assert saved.restore(program.state).step == training.epoch == last
    assert events == ["begins", "begins", 1, "begins", 2, *(["begins", 3, 4] if seconds else [3])]
    assert training.signal_number == signal.SIGTERM


# --- the machine ---

STRICT = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    "JAX_NUMPY_RANK_PROMOTION": "raise",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_DEBUG_NANS": "1",
    "JAX_DEBUG_INFS": "1",
    "JAX_ERROR_CHECKING_BEHAVIOR_NAN": "raise",
    "JAX_DISABLE_JIT": "1",
    "JAX_NO_TRACING": "1",
    "JAX_NO_EXECUTION": "1",
    "JAX_TRANSFER_GUARD": "disallow",
    "JAX_TRANSFER_GUARD_HOST_TO_DEVICE": "disallow_explicit",
    "JAX_LEGACY_PRNG_KEY": "error",
    "JAX_EXPLICIT_X64_DTYPES": "error",
}
RUN = ["--config=configs/baseline.py", "--config.dataset=digits", "--config.num_epochs=2"]
RUN += ["--config.hidden_sizes=8", "--config.learning_rate=0.1,1e30"]  # the last one diverges


def run_main(*arguments, **environment):
    """A run as a shell starts it: JAX reads its variables when it is imported."""
    command = [sys.executable, "-m", "mnist_jax.main", *RUN, *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"} | environment
    return subprocess.run(
        command, cwd=TESTS.parent, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_no_setting_of_jax_changes_a_number_or_ends_a_run(server, tmp_path):
    assert server.run("main", *RUN, f"--workdir={tmp_path / 'plain'}", optimize=True).status == 0
    done = run_main(f"--workdir={tmp_path / 'strict'}", **STRICT)
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("warning: JAX_ENABLE_X64=True, JAX_DEFAULT_PRNG_IMPL=rbg, ")
    assert warning.endswith(" are ignored, so that a seed gives the same run everywhere")
    assert "JAX_LEGACY_PRNG_KEY" not in warning  # which works
    for name in ("metrics.jsonl", "results.csv"):
        plain, strict = (tmp_path / folder / name for folder in ("plain", "strict"))
        assert plain.read_bytes() == strict.read_bytes(), name
    made = json.loads((tmp_path / "strict/summary.json").read_text())["provenance"]
    assert STRICT.items() <= made["environment"].items()


def test_a_setting_that_jax_does_not_know_is_one_line(tmp_path):
    done = run_main(f"--workdir={tmp_path / 'run'}", JAX_NUMPY_RANK_PROMOTION="maybe")
    assert done.returncode == 2
    assert done.stderr.startswith("error: JAX cannot start: ")
    assert "maybe" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("quotas", "of_task", "cores"),
    [
        (("max 100000", "max 100000"), "", 8),
        (("300000 100000", "max 100000"), "", 3),
        (("300000 100000", "150000 100000"), "", 2),  # the second core in half of the time
        (("1000 100000", "max 100000"), "", 1),
        (("no number", ""), "", 8),
        (("300000 100000", "max 100000"), "2", 2),
        (("max 100000", "max 100000"), "16", 8),
        (("max 100000", "max 100000"), "0", 1),
        (("max 100000", "max 100000"), "4(x2)", 8),
    ],
)
def test_cores_are_those_of_a_job_or_a_container(tmp_path, monkeypatch, quotas, of_task, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", of_task)
    own, folder = tmp_path / "own", tmp_path / "groups" / "job_1" / "step_2"
    folder.mkdir(parents=True)
    for group, quota in zip((folder.parent, folder), quotas, strict=True):
        (group / "cpu.max").write_text(quota + "\n")
    own.write_text("0::/job_1/step_2\n")
    assert machine.num_cores(tmp_path / "groups", own) == cores


@pytest.mark.slow
def test_a_run_has_no_more_threads_than_cores(server, tmp_path):
    """One trial shares all cores through threads, of which XLA would have one for each core."""
    flags = [f for f in RUN if "learning_rate" not in f]
    done = server.run(
        "main", *flags, f"--workdir={tmp_path}", SLURM_CPUS_PER_TASK="1", XLA_FLAGS=""
    )
    assert done.status == 0
    devices = json.loads((tmp_path / "summary.json").read_text())["provenance"]["devices"]
    assert (devices["cores"], devices["threads"]) == (1, "one a device")


def test_without_proc_memory_is_tried_and_a_cpu_is_refused(server, tmp_path, monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "none"))
    assert machine.free_memory(tmp_path, tmp_path / "none") >= 2**40
    monkeypatch.setattr(jax_setup, "CPU_INFO", tmp_path / "none" / "cpuinfo")
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(UserError, match="none/cpuinfo: missing, where JAX looks for what the CPU"):
        jax_setup.configure_jax()


ON_EIGHT_DEVICES = """
import base, jax, numpy as np
from test_sweep import OPTIONS, run, sweep, tiny_dataset, trials

assert len(jax.devices()) == 8
for num_trials, conv_features in CASES:
    seeds, expected = trials(seeds=range(num_trials)), None
    for num_devices in DEVICES:
        found = run(seeds, conv_features=conv_features, num_devices=num_devices)
        expected = expected or found
        for epoch, other in zip(found, expected, strict=True):
            for name in epoch:
                assert epoch[name].shape == (num_trials,)
                np.testing.assert_allclose(epoch[name], other[name], rtol=1e-6)
model = base.create_model(conv_features=(), hidden_sizes=(8,))
program = base.compile_sweep(model, trials(seeds=range(11)), tiny_dataset(), **OPTIONS)
assert program.devices["count"] == 8
text = program.run_epoch.as_text()
assert "num_partitions=8" in text
assert not any(word in text for word in ("all-reduce", "all-gather", "collective", "all-to-all"))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cases", "devices"),
    [
        ([(11, ())], (1, 8)),
        ([(3, ()), (11, ()), (5, (2,))], (1, 2, 4, 8)),
    ],
)
def test_any_number_of_devices_gives_the_same_results_without_communication(cases, devices):
    program = f"CASES, DEVICES = {cases}, {devices}\n{ON_EIGHT_DEVICES}"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
    }
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


@pytest.mark.slow
def test_vmap_gives_what_lax_map_gives_up_to_rounding(monkeypatch):
    six = trials(seeds=range(3), l2=(0.0, 1e-3))
    mapped = run(six)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    vmapped = run(six)
    for a, b in zip(mapped, vmapped, strict=True):
        np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("conv_features", "hidden_sizes"),
    [((), (8,)), pytest.param((8, 16), (16,), marks=pytest.mark.slow)],
    ids=["mlp and l2_sweep", "cnn"],
)
def test_the_program_has_nothing_slow_in_it(optimized, conv_features, hidden_sizes):
    """No communication, no host, no sort; no convolution, which XLA's CPU loops run unoptimised."""
    model = base.create_model(conv_features=conv_features, hidden_sizes=hidden_sizes)
    compiled = base.compile_sweep(model, trials(seeds=range(2)), tiny_dataset(), **OPTIONS)
    program = compiled.run_epoch.as_text()
    for slow in ("all-reduce", "all-gather", "collective", "infeed", "outfeed", "sort(",
                 "convolution(", "select-and-scatter"):  # fmt: skip
        assert slow not in program
    assert "dot(" in program
