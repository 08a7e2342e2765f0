"""Writes the table of keys in docs/grid.md, as the package has them.

    python docs/make_grid.py

The package must be installed, or its folder be in PYTHONPATH.
"""

from pathlib import Path

from mnist_jax.config.keys import built_in_axes
from mnist_jax.config.settings import SETTINGS

FILE = Path(__file__).with_name("grid.md")
START = "| key | default | kind | what it is |\n|---|---|---|---|\n"


def rows():
    """Yields name, default, kind and meaning of every key."""

    for name, setting in SETTINGS.items():
        yield name, setting.default, "setting", setting.text
    for _, owner, axes in built_in_axes():
        for axis in axes:
            kind = "traced" if axis.traced else "static"
            yield axis.name, axis.default, f"{kind}, {owner}" if owner else kind, axis.text


def page():
    """Returns docs/grid.md with its table, which is the last thing in it, updated."""
    text = FILE.read_text(encoding="utf-8").partition(START)[0]
    lines = [
        f"| `{name}` | `{default!r}` | {kind} | {meaning} |\n"
        for name, default, kind, meaning in rows()
    ]
    return text + START + "".join(lines)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
