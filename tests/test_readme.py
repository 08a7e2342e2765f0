"""The README says what is true of every key."""

from server import ROOT

from mnist_jax.keys import describe_keys


def test_the_table_of_keys_is_that_of_the_code():
    rows = [
        f"| `{key}` | `{default}` | {kind} | {text} |"
        for key, default, kind, text in describe_keys()
    ]
    readme = (ROOT / "README.md").read_text()
    assert "\n".join(rows) in readme, "the table is now:\n" + "\n".join(rows)
