"""The package as it is installed: the configs by name, the wheel, and where it is imported from."""

import pytest
from server import ROOT

from mnist_jax import UserError
from mnist_jax.config.config_files import read_file

CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
MINE = "def get_config(seed=3):\n    return {'seed': seed}\n"


@pytest.fixture
def here(monkeypatch, tmp_path):
    """An empty folder that is the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_of_the_package_has_a_name_everywhere(here, name):
    (here / name).mkdir()  # a run's folder, say, which is no config
    named, given = read_file(name), read_file(str(ROOT / "configs" / f"{name}.py"))
    assert (named.name, named.config) == (name, given.config)


def test_a_file_in_the_current_directory_comes_first(here):
    (here / "l2_sweep.py").write_text(MINE)
    assert read_file("l2_sweep").config == {"seed": 3}
    assert read_file("l2_sweep:7").config == {"seed": "7"}
    (here / "l2_sweep").write_text("A file of that very name is meant, whatever it is.")
    with pytest.raises(UserError, match=r"^--config=l2_sweep: ends in neither \.py nor \.json"):
        read_file("l2_sweep")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("l2_swep", f"did you mean l2_sweep? expected {', '.join(CONFIGS)}, or a file"),
        ("minne", "did you mean mine? expected baseline"),
        ("configs/l2_sweep", "no such file; expected a config file"),
    ],
)
def test_a_name_that_no_config_has_is_told_those_that_there_are(here, given, said):
    (here / "mine.py").write_text(MINE)
    with pytest.raises(UserError) as error:
        read_file(given)
    assert str(error.value).startswith(f"--config={given}: ")
    assert said in str(error.value)
