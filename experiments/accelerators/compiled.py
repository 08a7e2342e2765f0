"""Compiles today's programs for a GPU and a TPU, neither of which need be there, and counts.

    pip install -e '.[accelerators]'
    JAX_PLATFORMS=cpu python experiments/accelerators/compiled.py FILE [CASE ...]

A case is PLATFORM:CONFIG:TRIALS, as in gpu:l2_sweep:15; by default, all of `CASES`. A line of JSON
is added to the file as each ends. Nothing is run, so no time is measured. To be trusted are which
operations a program has, how many, and the memory that the compiler plans; not how a GPU computes a
matrix product, which is chosen by timing it there. Cycles are those that the TPU's compiler
expects, and some operations, such as gathers, have none.
"""

import contextlib
import importlib.util
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np

from mnist_jax.config.experiment import read_experiment
from mnist_jax.config.settings import PRECISIONS
from mnist_jax.data.splits import Dataset
from mnist_jax.training import hosts, memory, recipes, sweep

CASES = ("gpu:l2_sweep:15", "gpu:l2_sweep:1000", "gpu:baseline:1000", "gpu:cnn:16",
         "tpu:l2_sweep:15", "tpu:baseline:15", "tpu:cnn:16")  # fmt: skip
PACKAGES = {"gpu": "jax_plugins.xla_cuda13", "tpu": "libtpu"}
TARGETS = {"gpu": "one H100", "tpu": "four chips of v5e"}
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3" device_vendor: "NVIDIA Corporation"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.12.0"
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 device_address_bits: 64
  device_memory_size: 84942979072 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
"""
"""What XLA must know of an H100, from its public data sheet."""


# --- compiling ---


def missing(platform: str) -> str:
    """Says what is to be installed to compile for a platform; empty if nothing is."""
    name = PACKAGES[platform]
    with contextlib.suppress(ModuleNotFoundError):  # of the package above it
        if importlib.util.find_spec(name):
            return ""
    return f"{name} is not installed: pip install -e '.[accelerators]'"


def devices_of(platform: str, num_gpus: int) -> list:
    """Returns devices that are not there: H100s, or four chips of a TPU v5e."""
    from jax.experimental import topologies

    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # asks no server which TPU this is
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"  # by several processes at a time
    if platform == "tpu":
        return list(topologies.get_topology_desc("v5e:2x2", platform="tpu").devices)
    jax.devices()  # with which JAX finds its plug-ins
    described = {"platform": "cuda", "topology": f"1x1x{num_gpus}", "target_config": H100}
    return list(topologies.get_topology_desc(**described).devices)


@contextlib.contextmanager
def _as_on(platform: str, num_gpus: int) -> Iterator[None]:
    """Lets a sweep be compiled for devices that can hold no arrays."""

    def place(tree: Any, sharding: Any) -> Any:
        def shape(x):
            dtype = jax.dtypes.canonicalize_dtype(x.dtype)
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)

        return jax.tree.map(shape, tree)

    devices = devices_of(platform, num_gpus)
    cached = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        with (
            mock.patch.object(jax, "default_backend", return_value=platform),
            mock.patch.object(hosts, "place", place),
            mock.patch.object(sweep, "devices_for", lambda trials, _: devices[:trials]),
            mock.patch.object(sweep, "_known", {}),
        ):
            yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)


def blank_mnist() -> Dataset:
    """Returns a data set of MNIST's sizes, without a picture in it."""

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        return np.broadcast_to(np.uint8(0), (n, 28, 28)), np.broadcast_to(np.uint8(0), n)

    names = tuple("0123456789")
    return Dataset("mnist", *split(60_000), *split(0), *split(10_000), names, "", "")


def compile_case(case: str, num_gpus: int = 1) -> sweep.Sweep:
    """Compiles the programs of a case, in the config's own precision.

    The trials are those of three seeds of each point, over and over, as in `epochs.py`.
    """
    platform, config, num_trials = case.split(":")
    experiment = read_experiment(f"configs/{config}.py", {"num_seeds": "3"})
    (part,) = experiment.parts.values()
    recipe, found = recipes.create_recipe(experiment, part, blank_mnist())
    chosen = np.arange(int(num_trials)) % len(part)
    trials = jax.tree.map(lambda x: x[chosen], found)
    with jax.default_matmul_precision(PRECISIONS[experiment.precision]), _as_on(platform, num_gpus):
        return sweep.compile_sweep(recipe, trials, blank_mnist())


# --- counting ---


class Operation(NamedTuple):
    """An instruction of a compiled program, as its text has it."""

    name: str
    shape: str
    kind: str
    rest: str


_LINE = re.compile(r"^(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all",
         "copy-done", "async-done", "partition-id"}  # fmt: skip


def operations(text: str) -> dict[str, list[Operation]]:
    """Returns the operations of each computation of a program, without those that do nothing."""
    found: dict[str, list[Operation]] = {}
    name = ""
    for line in text.splitlines():
        if start := re.match(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line):
            name = start[1]
            found[name] = []
        elif (match := _LINE.match(line.strip())) and match[3] not in _FREE:
            found[name].append(Operation(*match.groups()))
    return found


def training_step(text: str) -> list[Operation]:
    """Returns the operations of a training step: of the loop that has the most of them.

    Those of computations that it calls whole, as a GPU's graphs, count one by one.
    """
    computations = operations(text)

    def flat(name: str) -> Iterator[Operation]:
        for operation in computations[name]:
            called = re.search(r"to_apply=%?([\w.\-]+)", operation.rest)
            if operation.kind == "call" and called:
                yield from flat(called[1])
            else:
                yield operation

    loops = [op for ops in computations.values() for op in ops if op.kind == "while"]
    bodies = [re.search(r"body=%?([\w.\-]+)", loop.rest) for loop in loops]
    return max((list(flat(body[1])) for body in bodies if body), key=len)


COMMUNICATION = ("all-reduce", "all-gather", "all-to-all", "ragged-all-to-all", "reduce-scatter",
                 "collective-permute", "collective-broadcast")  # fmt: skip
HOST = ("infeed", "outfeed", "send", "recv")


def counted(text: str) -> Counter[str]:
    """Counts a program's operations by kind, those inside fusions too, calls of the host apart."""
    found: Counter[str] = Counter()
    for operation in (op for ops in operations(text).values() for op in ops):
        found[operation.kind.removesuffix("-start")] += 1
        found["callback"] += "callback" in operation.rest.partition("metadata=")[0]
    return found


def count(case: str) -> dict[str, Any]:
    """Compiles a case and returns its counts."""
    compiled = compile_case(case)
    text, planned = compiled.run_epoch.as_text(), memory.memory_of(compiled)
    step = training_step(text)
    cycles = [re.search(r'"estimated_cycles":"(\d+)"', op.rest) for op in step]
    return {
        "case": case,
        "target": TARGETS[case.partition(":")[0]],
        "step_operations": len(step),
        "step_cycles": sum(int(c[1]) for c in cycles if c) or None,
        "trial_MB": planned["trial_bytes"] / 1e6,
        "device_MB": planned["device_bytes"] / 1e6,
        "jax": jax.__version__,
    }


def main() -> None:
    """Counts the cases."""
    file, *cases = sys.argv[1:]
    for case in cases or CASES:
        if why := missing(case.partition(":")[0]):
            sys.exit(why)
        row = count(case)
        print(json.dumps(row), flush=True)
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
