"""Programs of the package in the process of the tests, up to where one would start JAX."""

import importlib
import sys
from typing import NamedTuple

import pytest
from server import PROGRAMS

from mnist_jax import cli
from mnist_jax.training import jax_setup


class Done(NamedTuple):
    """How a program ended, as `server.Process` has it."""

    status: int
    out: str
    err: str


class StartsJaxError(BaseException):
    """Ends a program that would set JAX up, which a process does once."""


def _delete_flags():
    known = cli.FLAGS.flags_by_module_dict()
    modules = [module for module in known if module.startswith("mnist_jax.")]
    for name in [flag.name for module in modules for flag in known[module]]:
        delattr(cli.FLAGS, name)


def run(capsys, module, *arguments, cwd, **environment):
    """Returns how a program ended, or None where it would start JAX."""

    def configure_jax(*_, **__):
        raise StartsJaxError

    is_room = module not in PROGRAMS
    program = importlib.import_module(f"mnist_jax.{module}" + ".__main__" * is_room)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_setup, "configure_jax", configure_jax)
        patch.setattr(sys, "argv", [f"mnist_jax.{module}", *arguments])
        patch.setattr(sys, "dont_write_bytecode", True)  # of a config, which no run leaves
        patch.delenv("MNIST_JAX_DATA_DIR", raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.chdir(cwd)
        _delete_flags()
        try:
            with pytest.raises(SystemExit) as end:
                cli.run_command(program.main, program.define_flags, sys.argv)
        except StartsJaxError:
            return None
        finally:
            _delete_flags()
            cli.FLAGS.unparse_flags()
    return Done(end.value.code, *capsys.readouterr())
