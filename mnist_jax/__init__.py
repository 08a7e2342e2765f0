"""Repeated-trial experiments at MNIST scale: a whole sweep as one compiled JAX program."""

__version__ = "0.1.0"


class UserError(Exception):
    """Bad input. The message is one line: the value, what was expected, what to do.

    The command line prints it without a traceback and exits with status 2.
    """
