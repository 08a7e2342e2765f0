"""Today's programs as compiled for a GPU and for a TPU, neither of which need be there."""

import importlib.util
import sys

import jax
import pytest
from server import ROOT

from mnist_jax.training import memory

pytestmark = pytest.mark.slow
MOST = {  # operations of a step, and megabytes a trial, a tenth more than they are
    "gpu:l2_sweep:15": (27, 7.6),
    "gpu:cnn:16": (53, 69),
    "tpu:l2_sweep:15": (37, 8.0),
    "tpu:cnn:16": (73, 65),
}


@pytest.fixture(scope="module")
def compiled():
    """The study's program that compiles for devices that are not there."""
    path = ROOT / "experiments" / "accelerators" / "compiled.py"
    spec = importlib.util.spec_from_file_location("compiled", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def compile_case(compiled):
    """Compiles a case, optimised as in a run; skips the test where that cannot be."""

    def compile_one(case, **options):
        if why := compiled.missing(case.partition(":")[0]):
            pytest.skip(why)
        before = jax.config.values["jax_disable_most_optimizations"]
        jax.config.update("jax_disable_most_optimizations", False)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            try:
                return compiled.compile_case(case, **options)
            finally:
                jax.config.update("jax_disable_most_optimizations", before)

    return compile_one


@pytest.fixture(scope="module", params=MOST)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def program(case, compile_case):
    return compile_case(case)


def found_in(program, compiled, *kinds):
    """Counts the operations of the given kinds that a program has."""
    found = compiled.counted(program.run_epoch.as_text())
    assert found["while"]  # the text was read
    return {kind: found[kind] for kind in kinds if found[kind]}


def test_a_program_has_nothing_slow_in_it(compiled, program):
    assert found_in(program, compiled, "sort", "scatter", "select-and-scatter") == {}


def test_a_program_waits_for_no_other_and_for_no_host(compiled, program):
    assert found_in(program, compiled, *compiled.COMMUNICATION, *compiled.HOST, "callback") == {}


def test_trials_on_two_gpus_share_nothing(compiled, compile_case):
    program = compile_case("gpu:baseline:4", num_gpus=2)
    assert program.devices["count"] == 2
    assert found_in(program, compiled, *compiled.COMMUNICATION) == {}


def test_the_new_state_takes_the_memory_of_the_old_one(program):
    bytes_of_all = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(program.state))
    plan = program.run_epoch.memory_analysis()
    assert plan.alias_size_in_bytes >= bytes_of_all / program.devices["count"]


def test_a_step_has_no_more_operations_than_today(compiled, case, program):
    step = compiled.training_step(program.run_epoch.as_text())
    assert 10 < len(step) <= MOST[case][0]


def test_a_trial_takes_no_more_memory_than_today(case, program):
    assert memory.memory_of(program)["trial_bytes"] <= 1e6 * MOST[case][1]


def test_what_is_missing_is_named(compiled, monkeypatch):
    monkeypatch.setitem(compiled.PACKAGES, "gpu", "no_package.of_this_name")
    assert compiled.missing("gpu").startswith("no_package.of_this_name is not installed: pip ins")
