"""Exported files: other programs read from them what the trial predicts."""

import importlib.util
import json
import subprocess
import sys

import in_process
import jax
import numpy as np
import own
import pytest
import untrained
from server import snapshot
from untrained import images_of, write_run

from mnist_jax import __version__
from mnist_jax.export import writing
from mnist_jax.runs import workdirs
from mnist_jax.runs.trained_trial import read_trained_trial

POOLS = """
from flax import linen as nn
from mnist_jax import layers


class Pools(nn.Module):
    @nn.compact
    def __call__(self, images):
        x = layers.Conv(6, (3, 3), strides=2, padding="SAME")(images)
        x = layers.avg_pool(nn.gelu(nn.GroupNorm(2)(x)), (3, 3), (2, 2), "SAME")
        x = nn.Conv(6, (3, 3), feature_group_count=6, kernel_dilation=2)(x)
        x = nn.max_pool(x, (2, 2), (1, 1), "SAME")
        x = layers.max_pool(x + nn.silu(nn.LayerNorm()(x)), (2, 2), (2, 2), ((1, 0), (0, 1)))
        x = nn.avg_pool(x, (2, 2), (1, 1)).mean((1, 2))
        return nn.log_softmax(nn.Dense(3)(x))
"""
PETS = ("cat", "dog", "cow")
CASES = ("mlp", "cnn", "own", "colour", "floats")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Has a run of each case."""
    path = tmp_path_factory.mktemp("untrained")
    own.write(path)
    (path / "pools.py").write_text(POOLS)
    standard = {"scaling": "standard"}
    write_run(path / "mlp", images_of(), model="mlp", hidden_sizes=(8, 6), **standard)
    write_run(path / "cnn", images_of(), model="cnn", conv_features=(8, 9), hidden_sizes=(5,))
    write_run(path / "own", images_of(), [path], model="my_net.py:Net", dropout=0.25)
    pets = images_of((12, 13, 3), name="pets.npz", class_names=PETS)
    write_run(path / "colour", pets, model="cnn", conv_features=(4,), hidden_sizes=(5,), **standard)
    pets = images_of((12, 13, 3), np.float32, "floats.npz", PETS)
    write_run(path / "floats", pets, [path], model="pools.py:Pools")
    return path


def case(folder, name):
    """Returns a trial, test images of its data set, and what it gives them."""
    trained = read_trained_trial(folder / name)
    shape = [size for size in trained.image_shape if size > 1]
    images = images_of(shape, np.float32 if trained.takes_floats else np.uint8).test_images
    wanted = trained.predict(images)
    assert wanted.std(0).max() > 1e-3  # the images differ
    return trained, images, wanted


@pytest.mark.parametrize("name", CASES)
def test_a_stablehlo_file_is_a_function_of_any_number_of_images(folder, name):
    trained, images, wanted = case(folder, name)
    content, said = writing.write(trained, "stablehlo")
    function = jax.export.deserialize(content)
    for n in (1, 7):
        np.testing.assert_allclose(function.call(images[:n]), wanted[:n], atol=1e-6)
    assert function.platforms == ("cpu", "cuda", "tpu")
    assert json.loads(function.fun_name) == said
    program = function.mlir_module()
    assert "stablehlo.while" not in program
    assert ("stablehlo.convolution" in program) == (name in ("cnn", "colour", "floats"))
    pools = {"cnn": 2, "colour": 1, "floats": 4}.get(name, 0)
    assert program.count('"stablehlo.reduce_window"') == pools


@pytest.mark.slow
def test_jax_alone_reads_a_stablehlo_file(folder, tmp_path):
    trained, images, wanted = case(folder, "own")
    (tmp_path / "model").write_bytes(writing.write(trained, "stablehlo")[0])
    np.save(tmp_path / "images.npy", images)
    program = """
import sys
import jax, numpy

function = jax.export.deserialize(open("model", "rb").read())
numpy.save("found.npy", function.call(numpy.load("images.npy")))
assert not {name for name in sys.modules if name.startswith(("mnist_jax", "flax"))}
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, atol=1e-6)


def test_a_safetensors_file_holds_the_weights_and_says_what_they_are(folder):
    safetensors = pytest.importorskip("safetensors")
    trained, _, _ = case(folder, "colour")
    content, said = writing.write(trained, "safetensors")
    arrays = dict(safetensors.deserialize(content))
    kernel = trained.params["conv_1"]["kernel"]
    assert len(arrays) == 6
    assert arrays["params/conv_1/kernel"]["shape"] == [3, 3, 3, 4]
    assert arrays["params/conv_1/kernel"]["data"] == kernel.tobytes()
    size = int.from_bytes(content[:8], "little")
    assert json.loads(content[8 : 8 + size])["__metadata__"] == said
    for name, value in {
        "producer_version": __version__,
        "model": "cnn",
        "model_fields": '{"conv_features": [4], "hidden_sizes": [5]}',
        "input": "uint8 [batch, 12, 13, 3]",
        "image_shape": "[12, 13, 3]",
        "scaling": "(pixel / 255 - mean) / deviation, by channel",
        "output": "probabilities, float32 [batch, 3]",
        "class_names": '["cat", "dog", "cow"]',
        "dataset": "pets.npz",
        "data_checksum": "sha256:0",
        "trial": "0",
        "seed": "0",
        "protocol": "test",
        "test_accuracy": "0.75",
        "test_accuracy_is": "best-epoch test accuracy; epoch chosen on the test set",
    }.items():
        assert said[name] == value
    assert json.loads(said["mean"]) == list(trained.moments.mean)
    assert json.loads(said["deviation"]) == list(trained.moments.deviation)
    assert json.loads(said["hyperparameters"])["scaling"] == "standard"
    assert "\nhidden_1  (batch, 5)               505\n" in said["layers"]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_onnx_runtime_computes_what_the_trial_predicts(folder, name):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    trained, images, wanted = case(folder, name)
    content, said = writing.write(trained, "onnx")
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    [taken], [given] = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape) == ("images", ["batch", *images.shape[1:]])
    assert taken.type == ("tensor(float)" if name == "floats" else "tensor(uint8)")
    assert (given.name, given.shape) == ("probabilities", ["batch", wanted.shape[1]])
    for n in (1, 7):
        [found] = session.run(None, {"images": images[:n]})
        np.testing.assert_allclose(found, wanted[:n], atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map == said
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)


# --- the program ---


def test_the_program_writes_one_file_and_replaces_its_own_alone(folder, server):
    before = snapshot(folder / "mlp")
    done = server.run("export", "mlp", "--format=stablehlo", cwd=folder)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        "mlp/model.stablehlo: the function from images to probabilities, for CPU, CUDA and TPU",
        "  model: mlp",
        "  trial: 0",
        "  input: uint8 [batch, 28, 28]",
        "  scaling: (pixel / 255 - mean) / deviation, by channel",
        "  output: probabilities, float32 [batch, 10]",
        f"  class_names: {json.dumps(untrained.DIGITS)}",
        "  test accuracy: 0.75 (best-epoch test accuracy; epoch chosen on the test set)",
    ]
    file = folder / "mlp" / "model.stablehlo"
    assert snapshot(folder / "mlp").keys() - before.keys() == {file}
    assert snapshot(folder / "mlp").items() >= before.items()
    first = file.read_bytes()
    assert workdirs.check_workdir(folder / "mlp", {}, overwrite=True) == "new"
    flags = ("--format=stablehlo", "--trial=0", f"--output={file}")
    assert server.run("export", "own", *flags, cwd=folder).status == 0
    assert json.loads(jax.export.deserialize(file.read_bytes()).fun_name)["model"] != "mlp"
    assert file.read_bytes() != first


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--format: missing; expected safetensors, stablehlo or onnx"),
        (("--format=pickle",), "--format=pickle: expected safetensors, stablehlo or onnx"),
        (("--format=stablehlo", "--trial=1"), "mlp has no trial 1: expected one of 0"),
        (
            ("--format=stablehlo", "--trial=-1"),
            "--trial=-1: expected a whole number of at least 0; see --help",
        ),
        (
            ("--format=stablehlo", "--output=pools.py"),
            "--output=pools.py: exists, and is no export; delete it, or choose another name by"
            " --output=FILE",
        ),
        (
            ("--format=stablehlo", "--output=mlp"),
            "--output=mlp: exists, and is no export; delete it, or choose another name by"
            " --output=FILE",
        ),
        (
            ("--format=stablehlo", "--output=no/model"),
            "--output=no/model: there is no such folder; choose another",
        ),
        (
            ("--format=stablehlo", "--output="),
            "--output=: expected a file; name one, or leave the flag out",
        ),
        (
            ("--format=stablehlo", "--data_dir=x"),
            "--data_dir: an export needs no data; leave it out",
        ),
        (
            ("--format=stablehlo", "--seed=1"),
            "--seed: an export does not know it; see --help",
        ),
        (
            ("own", "--format=stablehlo"),
            "2 arguments: expected one, the directory of a finished run; see --help",
        ),
    ],
)
def test_bad_input_costs_a_line_and_nothing_is_written(folder, capsys, flags, said):
    before = snapshot(folder)
    done = in_process.run(capsys, "export", "mlp", *flags, cwd=folder)
    assert done == (2, "", f"error: {said}\n")
    assert snapshot(folder) == before


def test_packages_that_are_missing_are_named_with_what_installs_them(folder, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x: None if "onnx" in x else found(x))
    done = in_process.run(capsys, "export", "mlp", "--format=onnx", cwd=folder)
    assert done == (
        *(2, ""),
        "error: --format=onnx: jax2onnx and onnx and onnxruntime cannot be found; pip install -e"
        " '.[onnx]'\n",
    )
