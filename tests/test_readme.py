"""The README says what is true of every key."""

from server import ROOT

from mnist_jax.config import axes
from mnist_jax.config.keys import find_axes
from mnist_jax.config.settings import SETTINGS


def rows():
    """Yields name, default, kind and meaning of every key."""
    for name, setting in SETTINGS.items():
        yield name, setting.default, "setting", setting.text
    for axis in find_axes("mlp", ("sgd",)).values():
        if not axis.of:
            yield axis.name, axis.default, axis.how, axis.text
    for classes in (axes.MODELS, axes.OPTIMIZERS):
        for name, cls in classes.items():
            for axis in axes.read_class(cls):
                yield axis.name, axis.default, f"{axis.how}, {name}", axis.text


def test_the_table_of_keys_is_that_of_the_code():
    table = "\n".join(
        f"| `{name}` | `{default!r}` | {kind} | {text} |" for name, default, kind, text in rows()
    )
    assert table in (ROOT / "README.md").read_text(), f"the table is now:\n{table}"
