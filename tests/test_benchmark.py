import functools
import importlib.util
import io
import json
import math
import os
import sys
from types import SimpleNamespace
from unittest import mock

import base
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from base import BASE
from server import ROOT

from mnist_jax import UserError
from mnist_jax.benchmark import peer_loops, peers, processes, rounds, stages, step_time
from mnist_jax.config.experiment import read_experiment
from mnist_jax.config.settings import PRECISIONS
from mnist_jax.data import loading
from mnist_jax.data.splits import Moments
from mnist_jax.training import trial

TASK = peer_loops.Task([28, 28, 1], 10, [8], 16, 0.1, 0.9, 1e-3, False, "float32")


def test_ratio_is_taken_pair_by_pair():
    # The medians' ratio would be 20 / 4 = 5.
    assert rounds.ratio_by_round([10.0, 20.0, 60.0], [5.0, 2.0, 4.0]) == {
        "median": 10.0,
        "min": 2.0,
        "max": 15.0,
    }
    with pytest.raises(ValueError, match="zip"):
        rounds.ratio_by_round([1.0, 2.0], [1.0])


def test_breakdown_sums_to_the_step():
    seconds = {
        "training": 10.0,
        "forward": 4.0,
        "gather": 1.0,
        "update": 0.75,
        "dispatch": 0.5,
        "evaluation": 3.0,
        "shuffle": 0.25,
    }
    parts = stages.breakdown(seconds, num_steps=100, epoch_steps=1000)
    assert parts == pytest.approx(
        {
            "gather": 5.0,
            "forward": 30.0,
            "backward": 57.5,
            "update": 2.5,
            "dispatch": 5.0,
            "evaluation": 3.0,
            "shuffle": 0.25,
        }
    )
    assert sum(list(parts.values())[:5]) == pytest.approx(100.0)  # 10 s / 100 steps
    assert list(parts) == list(step_time.STAGES)


def trainer(epochs):
    answers = iter(epochs)

    def train():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        ms, loss = answer
        return rounds.Epoch(seconds=ms, steps=1000, loss=loss)

    return train


def test_rounds_count_no_warm_up_and_leave_out_who_does_not_train(capsys):
    trainers = {
        "ours": trainer([(9.0, 2.3), (1.0, 1.0), (2.0, 0.5)]),
        "keras": trainer([(9.0, 2.3), (4.0, 2.4), (4.0, 2.3)]),
        "torch": trainer([(9.0, 2.3), (4.0, math.nan), (4.0, math.nan)]),
        "flax": trainer([(9.0, 2.3), rounds.TimingError("it died")]),
    }
    timings, left_out = rounds.run_rounds(trainers, rounds=2)
    assert timings == {"ours": ([9.0, 1.0, 2.0], [2.3, 1.0, 0.5])}
    assert left_out.keys() == {"keras", "torch", "flax"}
    assert left_out["flax"] == "it died"
    assert "does not train" in left_out["keras"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines if "ms a step" in line] == [
        "warm-up",
        "round 1/2",
        "round 2/2",
    ]


def test_the_table_of_peers_says_where_ours_is_slower():
    compared = {
        name: {"ms_per_step": 3.0, "versions": {}, "ratio": rounds.spread(ratios)}
        for name, ratios in {"torch": [1.5, 2.0, 3.0], "flax": [0.8, 0.5, 1.25]}.items()
    }
    (table,) = peers.peer_lines(compared, {})
    _, torch, flax = (" ".join(line.split()) for line in table.splitlines())
    assert torch.endswith("3.000 2.00 times faster 1.50 to 3.00")
    assert flax.endswith("3.000 1.25 times slower 0.80 to 2.00")


def test_the_table_of_peers_has_the_versions_that_a_name_stands_for():
    times = {"ms_per_step": 3.0, "ratio": rounds.spread([2.0])}
    compared = {
        "keras-jax": {"versions": {"keras": "3.15", "jax": "0.10"}, **times},
        "flax": {"versions": {"flax": "0.12", "jax": "0.10"}, **times},
    }
    (table,) = peers.peer_lines(compared, {})
    _, keras, flax = table.splitlines()
    assert keras.strip().startswith("keras-jax (keras 3.15 jax 0.10)  ")
    assert flax.strip().startswith("flax (flax 0.12)  ")


def test_rounds_alternate_their_order():
    called = []

    def named(name):
        def train():
            called.append(name)
            return rounds.Epoch(1.0, 1, 1.0 / len(called))

        return train

    rounds.run_rounds({"ours": named("ours"), "keras": named("keras")}, rounds=2)
    assert called == ["keras", "ours", "ours", "keras", "keras", "ours"]


def test_peers_speak_in_lines():
    answers = io.StringIO()
    epochs = iter([rounds.Epoch(2.0, 10, 0.5), rounds.Epoch(1.0, 10, 0.25)])
    processes.serve(lambda: next(epochs), {"platform": "cpu"}, ["epoch\n", "epoch\n"], answers)
    assert [json.loads(line) for line in answers.getvalue().splitlines()] == [
        {"platform": "cpu"},
        {"seconds": 2.0, "steps": 10, "loss": 0.5},
        {"seconds": 1.0, "steps": 10, "loss": 0.25},
    ]
    with pytest.raises(ValueError, match="expected 'epoch'"):
        processes.serve(lambda: next(epochs), {}, ["stop\n"], answers)


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 28, 28), np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(64, dtype=np.uint8) % 10)
    return tmp_path / "images.npz"


def test_a_process_that_dies_says_why(tmp_path):
    code = "print('{}', flush=True); input(); raise ValueError('no images')"
    process = processes.TrainingProcess(["-c", code], tmp_path / "log", os.environ)
    said = "^its process ended with status 1: ValueError: no images$"
    with pytest.raises(rounds.TimingError, match=said):
        process.train_epoch()
    process.close()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_peers_see_the_images_that_a_trial_sees(channels, dtype):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, channels)).astype(dtype)
    images = images if channels == 3 else images[..., 0]
    task = TASK._replace(image_shape=[4, 3, channels])
    seen = trial.scaled(
        base.create_recipe(base.create_model(), base.create_trials([BASE], [0], 5)), images
    )
    np.testing.assert_allclose(peer_loops.pixels(task, images), seen, rtol=1e-6)
    assert seen.shape == (5, 4, 3, channels)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"scaling": "standard"},
            "--config.scaling=standard: expected unit, since the peers train",
        ),
        ({"augmentation": "shift"}, "--config.augmentation=shift: expected none, since the peers"),
        ({"ema_decay": 0.9}, "--config.ema_decay=0.9: expected 0, since the peers train by plain"),
    ],
)
def test_what_the_peers_do_not_train_is_refused(changes, said):
    peers.check_peers_can_train("mlp", BASE)
    with pytest.raises(UserError) as error:
        peers.check_peers_can_train("mlp", BASE | changes)
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("change it, or leave out --peers")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 6, 3)])
def test_flax_peer_trains(archive, shape):
    task = TASK._replace(conv_features=[2], image_shape=shape, num_classes=300)
    with np.load(archive) as arrays:
        images = arrays["images"][:, : shape[0], : shape[1]]
        labels = arrays["labels"].astype(np.uint16) + 290
    images = images if shape[2] == 1 else np.stack(3 * [images], axis=-1)
    train, description = peer_loops.flax_trainer(task, images, labels)
    epochs = [train() for _ in range(4)]
    assert description["platform"] == "cpu"
    assert [epoch.steps for epoch in epochs] == [4] * 4
    assert epochs[-1].loss < epochs[0].loss


@pytest.mark.parametrize("name", ["keras", "keras-jax", "torch"])
def test_other_peers_train_where_they_are_installed(archive, name):
    packages = peers.PACKAGES[name]
    if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    peer = peers.start_peer(name, TASK._replace(conv_features=[2]), archive, os.environ)
    epochs = [peer.train_epoch() for _ in range(4)]
    peer.close()
    assert epochs[-1].loss < epochs[0].loss
    assert epochs[0].steps == 4
    assert tuple(peer.description["versions"]) == packages


@pytest.mark.parametrize(("name", "backend"), [("keras", "tensorflow"), ("keras-jax", "jax")])
def test_what_the_user_has_set_for_keras_does_not_count(monkeypatch, tmp_path, name, backend):
    started = []
    monkeypatch.setattr(peers, "TrainingProcess", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: package)
    users = {"KERAS_BACKEND": "torch", "KERAS_HOME": "theirs", "KERAS_MAX_STEPS_PER_EPOCH": "1"}
    peers.start_peer(name, TASK, tmp_path / "images.npz", {"PATH": "bin", **users})
    ((command, _, environment),) = started
    home = str(tmp_path / "keras")
    assert environment == {"PATH": "bin", "KERAS_BACKEND": backend, "KERAS_HOME": home}
    assert not (tmp_path / "keras").exists()  # and so it has no keras.json
    assert peer_loops.TRAINERS[command[2]] is peer_loops.keras_trainer


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (4, None)])
def test_peers_run_on_the_cores_that_a_quota_leaves(monkeypatch, tmp_path, cores, threads):
    """They have as many threads as ours; without a quota, as many as they take by themselves."""
    started = []
    monkeypatch.setattr(peers, "start_peer", lambda *arguments: started.append(arguments) or peer)
    monkeypatch.setattr(peers, "num_cores", lambda: cores)
    monkeypatch.setattr(peers, "bound_cores", lambda: 4)
    peer, dataset = SimpleNamespace(description={"platform": "cpu"}), loading.load_dataset("digits")
    users = {"OMP_NUM_THREADS": "3"}
    peers.start_peers(["flax"], BASE, dataset, tmp_path, users, "cpu", "float32")
    ((*_, environment),) = started
    found = {name: environment.get(name) for name in peers.THREADS}
    assert found == dict.fromkeys(peers.THREADS, threads) | users


@pytest.mark.parametrize("precision", PRECISIONS)
def test_keras_on_jax_multiplies_as_ours_and_its_clock_waits(monkeypatch, precision):
    seconds, settings = [], {}
    keras = mock.MagicMock(__version__="3.15")
    keras.backend.backend.return_value, keras.callbacks.Callback = "jax", object
    model = keras.Sequential.return_value

    def fit(*_, callbacks, **__):
        seconds.append(30.0)  # set-up
        callbacks[0].on_epoch_begin(0)
        seconds.append(2.0)  # steps are dispatched
        callbacks[0].on_epoch_end(0)
        seconds.append(10.0)  # what else a fit does
        return SimpleNamespace(history={"loss": [0.5]})

    model.fit, model.get_weights = fit, lambda: seconds.append(1.0)  # until the device is done
    monkeypatch.setitem(sys.modules, "keras", keras)
    clock = SimpleNamespace(perf_counter=lambda: sum(seconds))
    monkeypatch.setattr(peer_loops, "time", clock)
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    monkeypatch.setattr(peer_loops, "num_cores", lambda: 3)
    images, labels = np.zeros((20, 28, 28), np.uint8), np.zeros(20, np.uint8)
    train, description = peer_loops.keras_trainer(
        TASK._replace(precision=precision), images, labels
    )
    assert train() == rounds.Epoch(seconds=3.0, steps=2, loss=0.5)
    assert settings == {"jax_default_matmul_precision": PRECISIONS[precision]}
    policies = [mock.call("mixed_bfloat16")] if precision == "bfloat16" else []
    assert keras.config.set_dtype_policy.mock_calls == policies
    assert description == {
        "versions": {"keras": "3.15", "jax": jax.__version__},
        "platform": "cpu",
        "threads": 3,
    }


@pytest.mark.slow
def test_a_real_run_leaves_its_record_and_a_trace(server, tmp_path):
    done = server.run(
        "benchmark",
        f"--config={ROOT}/configs/baseline.py",
        "--config.dataset=digits",
        "--config.hidden_sizes=(16,)",
        "--peers=flax",
        "--rounds=2",
        f"--json={tmp_path}/result.json",
        f"--profile={tmp_path}/trace",
    )
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    keys = ("ms_per_step", "images_per_second", "gflops", "matmul_peak_gflops", "share_of_peak")
    for key in (*keys, "compile_seconds", "lower_seconds", "ms_per_step_min", "ms_per_step_max"):
        assert math.isfinite(record[key])
        assert record[key] > 0
    steps_per_second = record["images_per_second"] / 128
    assert record["gflops"] == pytest.approx(record["mflop_per_step"] * steps_per_second / 1e3)
    flax = record["peers"]["flax"]
    assert flax["ms_per_step"] > 0
    assert flax["ratio"]["min"] <= flax["ratio"]["median"] <= flax["ratio"]["max"]
    pairs = zip(record["rounds"]["flax"]["ms"], record["rounds"]["ours"]["ms"], strict=True)
    assert flax["ratio"] == rounds.spread([t / o for t, o in list(pairs)[1:]])
    assert set(record["breakdown_ms_per_step"]) == set(step_time.STAGES)
    assert all(map(math.isfinite, record["breakdown_ms_per_step"].values()))
    assert record["trials"] == record["devices"]["count"]
    assert "flax" in done.out
    assert "input gather" in done.out
    assert list(tmp_path.glob("trace/plugins/profile/*/perfetto_trace.json.gz"))
    assert list(tmp_path.glob("trace/plugins/profile/*/*.xplane.pb"))
    assert "ui.perfetto.dev" in done.err


@pytest.mark.slow
def test_a_network_of_ones_own_under_another_optimizer_is_timed(server, tmp_path):
    (tmp_path / "my_net.py").write_text(
        "from flax import linen as nn\n"
        "class Net(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, images):\n"
        "        return nn.Dense(10)(images.reshape(len(images), -1))\n"
    )
    done = server.run(
        "benchmark",
        f"--config={ROOT}/configs/baseline.py",
        "--config.dataset=digits",
        f"--config.model={tmp_path}/my_net.py:Net",
        "--config.optimizer=lion",
        "--rounds=1",
        f"--json={tmp_path}/result.json",
    )
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert record["mflop_per_step"] == 2 * 2 * 128 * 784 * 10 / 1e6  # forward and kernel's gradient


@pytest.mark.slow
def test_colour_of_ones_own_is_timed_beside_a_peer(server, tmp_path):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (64, 6, 5, 3), np.uint8), np.arange(64) % 3
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:9], "y_test": labels[:9]}
    np.savez(tmp_path / "own.npz", **arrays)
    flags = [f"--config.dataset={tmp_path}/own.npz", "--config.hidden_sizes=4"]
    flags = [f"--config={ROOT}/configs/baseline.py", *flags, "--config.batch_size=8", "--rounds=1"]
    done = server.run("benchmark", *flags, "--peers=flax", f"--json={tmp_path}/result.json")
    assert done.status == 0, done.err
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert record["config"]["data"]["image_shape"] == [6, 5, 3]
    assert record["mflop_per_step"] == 2 * 8 * (2 * 90 * 4 + 3 * 4 * 3) / 1e6
    assert record["peers"]["flax"]["ms_per_step"] > 0
    done = server.run("benchmark", *flags, "--trials=1,2")
    assert done.status == 0, done.err


@pytest.mark.slow
def test_an_epoch_of_more_work_than_a_round_is_cut_to_whole_batches(monkeypatch):
    monkeypatch.setattr(stages, "start_jax", lambda *_: None)  # the tests' process has started it
    experiment = read_experiment("baseline", {"dataset": "digits", "hidden_sizes": "16"})
    flop = 2 * 128 * (2 * 784 * 16 + 3 * 16 * 10)
    monkeypatch.setattr(stages, "WORK_PER_ROUND", 3.5 * flop)
    try:
        timed = stages.TimedSweep(experiment, loading.load_dataset("digits"))
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
    assert timed.flop == flop
    assert timed.shapes == [(128, 784, 16)]
    assert timed.sweep.sizes["train"] == len(timed.dataset.train_labels) == 3 * 128
    rounds = [timed.time_round(epoch_images=1437) for _ in range(5)]
    assert rounds[-1][1] < rounds[0][1] < 2.6
    assert {*rounds[0][0]} == {*step_time.STAGES, "training"} - {"backward"}


def test_a_missing_peer_is_left_out_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(peers.PACKAGES, "keras", ("no_such_package",))
    dataset = loading.load_dataset("digits")
    running, missing = peers.start_peers(
        ["keras"], BASE, dataset, tmp_path, os.environ, "cpu", "float32"
    )
    assert running == {}
    assert missing == {
        "keras": "no_such_package is not installed; pip install -e '.[bench]' in a checkout"
    }
    assert capsys.readouterr().err == f"keras is left out: {missing['keras']}\n"


@pytest.mark.parametrize(
    ("shape", "moments"), [((28, 28), None), ((6, 5, 3), Moments((0.4, 0.5, 0.6), (2.0, 1.0, 0.5)))]
)
def test_partial_epochs_do_their_work(shape, moments):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, *shape), np.uint8), np.arange(8, dtype=np.uint8)
    split = trial.Split(jnp.asarray(images), jnp.asarray(labels))
    trials = base.create_trials([BASE | {"learning_rate": 1e4}], [0], 8)
    recipe = base.create_recipe(
        base.create_model(hidden_sizes=(3,)),
        trials,
        batch_size=2,
        held_out=None,
        choose_epoch=False,
        image_shape=(*shape, 1)[:3],
        moments=moments,
    )._replace(eval_batch_size=4)
    hyper = jax.tree.map(lambda x: jnp.asarray(x[0]), trials)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
    def run(hyper, order):  # all at once, since most of the time goes to compiling
        state = trial.init(recipe, hyper)
        results = {
            name: epoch(recipe, hyper, state, order, split, split)
            for name, epoch in stages.partial_epochs().items()
        }
        scores = trial.evaluate(recipe, hyper, {"params": state.params}, split)
        return state, results, scores, trial.train_epoch(recipe, hyper, state, order, split)

    state, results, same, trained = run(hyper, jnp.asarray(rng.permutation(8)))
    pixels = images / 255
    if moments:
        pixels = (pixels - np.array(moments.mean)) / np.array(moments.deviation)
    np.testing.assert_allclose(results["gather"][1].sum(), pixels.sum() + 28, rtol=1e-4)
    np.testing.assert_allclose(results["forward"][1].loss, same.loss, rtol=1e-5)
    np.testing.assert_allclose(results["evaluation"][1].loss, same.loss, rtol=1e-5)
    # Four steps of gradient 1e-6 w at a rate of 1e4.
    before, after = (s.params["output"]["kernel"] for s in (state, results["update"][0]))
    np.testing.assert_allclose(after, 0.96 * before, rtol=1e-5)
    np.testing.assert_array_equal(results["training"][1].loss, trained[1].loss)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--peers=flax,nothing"],
            "--peers=nothing: unknown; expected some of keras, keras-jax, torch, flax",
        ),
        (["--rounds=0"], "rounds"),
        (["--json=/no/such/folder/result.json"], "--json=/no/such/folder/result.json"),
        (["--workdir=there"], "--workdir=there"),
        (["--shard=0/1"], "--shard=0/1: a benchmark chooses its trials itself"),
        (["--distributed=auto"], "--distributed=auto: a benchmark is one process"),
        (["--distributed_timeout=9"], "--distributed_timeout=9: a benchmark is one process"),
        (["--profile=/dev/null/trace"], "--profile=/dev/null/trace"),
        (["--config.dataset=digits", "--config.batch_size=5000"], "batch_size"),
    ],
)
def test_bad_input_is_one_line_and_status_2(server, arguments, said):
    done = server.run("benchmark", "--config=configs/baseline.py", *arguments)
    assert done.status == 2
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
