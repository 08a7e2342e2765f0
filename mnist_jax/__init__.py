"""Repeated-trial experiments at MNIST scale: a whole sweep as one compiled JAX program."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_jax.api import RunView, load, run
    from mnist_jax.config.keys import default_config

__version__ = "0.1.0"
__all__ = ["RunView", "UserError", "default_config", "load", "run"]


def __getattr__(name: str) -> Any:
    """Imports what takes time to import when it is first used."""
    if name == "default_config":
        from mnist_jax.config.keys import default_config

        return default_config
    if name in __all__:
        from mnist_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]


class UserError(Exception):
    """Bad input. The message is one line: the value, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2; `run` and `load` raise
    it.
    """
