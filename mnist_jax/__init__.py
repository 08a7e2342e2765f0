"""Repeated-trial experiments at MNIST scale: a whole sweep as one compiled JAX program."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Imports what takes time to import when it is first used."""
    if name == "default_config":
        from mnist_jax.config.keys import default_config

        return default_config
    raise AttributeError(f"module {__name__} has no attribute {name}")


class UserError(Exception):
    """Bad input. The message is one line: the value, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2.
    """
