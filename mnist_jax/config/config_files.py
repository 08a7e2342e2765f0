"""Reading of configs: Python files, records of runs, typed values; advice for unknown keys."""

import ast
import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from mnist_jax import UserError, run_files
from mnist_jax.config import old_records, user_code
from mnist_jax.config.user_code import OwnFile
from mnist_jax.data.datasets import DataFacts
from mnist_jax.disk import local_path
from mnist_jax.text import bare

EXPECTED = (
    "expected a config file such as configs/l2_sweep.py, the name of one that comes with the "
    "package such as l2_sweep, or the config.json of a run"
)
CONFIGS = Path(__file__).parents[1] / "configs"
"""The configs that come with the package, in a checkout a link to those at its top."""

# By the names that other tools have for it, in lower case without `_`: what to do here.
_ADVICE = {
    "lr eta baselr initlr initiallr maxlr peaklr stepsize": "did you mean learning_rate?",
    "epoch epochs nepoch nepochs maxepoch maxepochs numtrainepochs": "did you mean num_epochs?",
    "steps numsteps maxsteps iterations iters": "the number of steps follows from num_epochs and "
    "batch_size",
    "bs batch minibatch trainbatchsize perdevicetrainbatchsize": "did you mean batch_size?",
    "seed seeds randomseed randomstate rng": "give --seed=42, the first of num_seeds, or all of "
    "them as in --seed=42,123,456",
    "trials numtrials repeats nseeds runs nruns": "did you mean num_seeds?",
    "optim opt adam adamw sgd lion muon rmsprop": "did you mean optimizer, as in "
    "--config.optimizer=adamw?",
    "beta1 betas": "did you mean b1, of --config.optimizer=adamw?",
    "beta2": "did you mean b2, of --config.optimizer=adamw?",
    "dropout dropoutrate droprate": "that is for a model of your own, as in "
    "--config.model=my_net.py:MyNet, as a field of it",
    "wd decay l2decay": "did you mean weight_decay, or l2?",
    "reg regularization regularizer l2reg alpha lambda": "did you mean l2?",
    "clip clipnorm gradclip": "that is for an optimizer of your own, as in "
    "--config.optimizer=my_opt.py:make",
    "batchnorm": "that is for a model of your own, as in --config.model=my_net.py:MyNet",
    "ema": "did you mean ema_decay?",
    "l1 l1reg augment augmentation": "this is not available",
    "smoothing": "did you mean label_smoothing?",
    "scheduler lrscheduler lrschedule": "did you mean schedule?",
    "warmup warmupepochs": "did you mean warmup_steps?",
    "hidden hiddensize hiddendim hiddenunits hiddenlayers units width layers numlayers depth mlp": (
        "did you mean hidden_sizes of mlp and cnn, as in --config.hidden_sizes=500,300?"
    ),
    "filters channels kernels features conv cnn": "did you mean conv_features, as in "
    "--config.model=cnn --config.conv_features=32,64?",
    "arch architecture net network": "did you mean model, as in --config.model=cnn?",
    "metric": "did you mean metrics?",
    "activation act relu": "layers have ReLUs",
    "loss criterion": "the loss is cross-entropy, with l2 and label_smoothing",
    "val valsize valsplit validation validationsplit": "did you mean num_validation?",
    "chooseepoch": "that is what protocol says: validation or test, or last_epoch or "
    "validation_last_epoch, where the last epoch counts",
    "earlystopping patience": "protocol=validation takes the best epoch",
    "data datadir dataroot datapath": "give --data_dir=DIR; dataset is the name of the data set",
    "workdir output outputdir outdir logdir savedir": "give --workdir=DIR",
    "device gpu cuda accelerator backend": "did you mean platform (cpu, gpu, tpu), or devices, "
    "their number?",
    "gpus numgpus ngpus numdevices": "did you mean devices?",
    "dtype amp fp16 bf16 half mixedprecision": "did you mean precision?",
    "workers numworkers": "there is no loader: all images are in memory",
    "save saveevery saveinterval checkpointevery": "did you mean checkpoint_epochs?",
    "resume restore": "the same command with the same --workdir resumes a run",
    "numclasses classes": "the classes are those of the data set, which a model may take as "
    "num_classes",
    "name": "a run has the name of its config file",
    "shard shards": "give --shard=i/n",
}


class ConfigFile(NamedTuple):
    """What a config file holds; seed, shard and copies are those of a run's record."""

    config: dict[str, Any]  # the value of each key
    name: str  # of the file, or of the run
    folder: Path  # of the file
    seed: Any = 0
    shard: str = "0/1"
    copies: Mapping[str, OwnFile] = MappingProxyType({})  # in the run's directory, by name
    data: DataFacts | None = None  # of the user's own data


def read_file(spec: str) -> ConfigFile:
    """Reads a config file.

    Args:
        spec: The path of a Python file, whose `get_config` is called with what follows a colon if
            there is one; or of the `config.json` of a run; or NAME, for NAME.py in the current
            directory or, if there is none, among the configs that come with the package.

    Raises:
        UserError: There is none, it fails, or returns no config.
    """
    if not spec:
        raise UserError(f"--config=: {EXPECTED}")
    path, colon, argument = local_path(spec, "--config"), "", ""
    if not os.path.exists(path):
        start, colon, argument = str(path).partition(":")
        path = Path(start)
    is_name = path.name == str(path) and not path.suffix
    if is_name and (os.path.isdir(path) or not os.path.lexists(path)):
        path = _find_by_name(path.name, spec)
    if path.suffix == ".json" and os.path.isfile(path):
        return _read_record(spec, path)
    if path.suffix != ".py" and os.path.exists(path) and not path.is_dir():
        raise UserError(f"--config={spec}: ends in neither .py nor .json; {EXPECTED}")
    path, content = user_code.read_program([path], f"--config={spec}", EXPECTED)
    try:
        module = types.ModuleType("config")
        user_code.run_program(module, str(path), content)
        if not hasattr(module, "get_config"):
            raise AttributeError("there is no function get_config in it")
        config = module.get_config(argument) if colon else module.get_config()
        if not hasattr(config, "keys"):
            raise TypeError(f"get_config returns {config}, not a ConfigDict")
        return ConfigFile({key: config[key] for key in config}, path.stem, path.parent)
    except UserError as error:
        raise UserError(f"--config={spec}: {error}") from None
    except (Exception, SystemExit) as error:  # a program may raise anything
        reason = user_code.why(error, str(path))
        if locked := re.search('Key "([^"]+)" does not exist', str(error)):  # of default_config
            known = advice(locked[1], re.findall(r"'(\w+)\\?': ", str(error)))
            reason = f"there is no key {locked[1]}; {known or '--help lists the keys'}"
        if "cannot be casted" in reason:  # ConfigDict's types
            reason += "; ml_collections.ConfigDict(type_safe=False) takes values of any kind"
        raise UserError(f"--config={spec}: {reason}; mend the config file") from None


def _find_by_name(name: str, spec: str) -> Path:
    """Returns the path of NAME.py here, or else among the configs that come with the package."""
    for path in (Path(f"{name}.py"), CONFIGS / f"{name}.py"):
        if os.path.lexists(path):
            return path
    known = sorted(path.stem for path in CONFIGS.glob("*.py"))
    close = difflib.get_close_matches(name, [*known, *(x.stem for x in Path().glob("*.py"))], n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    folder = "that is a folder, and " if os.path.isdir(name) else ""
    raise UserError(
        f"--config={spec}: {folder}no config has that name; {meant}expected {', '.join(known)}, or"
        " a file: FILE.py, or the config.json of a run"
    )


def _read_record(spec: str, path: Path) -> ConfigFile:
    try:
        shape = run_files.CONFIG | {"seed": object}
        record = old_records.upgrade_record(run_files.read_json(path, shape))
        data = DataFacts.from_record(record.pop("data")) if "data" in record else None
    except (run_files.BadFileError, ValueError) as error:
        problem = f"not the config.json of a run ({error})"
        raise UserError(f"--config={spec}: {problem}; {EXPECTED}") from None
    name, seed, shard = (record.pop(key) for key in ("name", "seed", "shard"))
    if Path(name).name != name or name == "..":  # it becomes a folder's
        raise UserError(f"--config={spec}: '{name}' cannot be the name of a run; {EXPECTED}")
    try:
        copies = {
            own: user_code.read_copy(path.parent, own, sha256)
            for own, sha256 in record.pop("files", {}).items()
        }
    except run_files.BadFileError as error:
        cure = f"put it back as it was: the run in {path.parent} needs it"
        raise UserError(f"{error.path.parent}/{error}; {cure}") from None
    return ConfigFile(record, name, path.parent, seed, shard, copies, data)


def read_value(text: str) -> Any:
    """Reads a typed value: Python's notation, or words and numbers between commas."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        values = tuple(_word(part.strip()) for part in text.split(","))
        return values[0] if len(values) == 1 else values


def _word(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def plain(value: Any) -> Any:
    """Returns a value with tuples in place of lists, ranges and arrays, and Python's numbers."""
    if hasattr(value, "to_numpy"):  # of pandas
        value = value.to_numpy()
    if hasattr(value, "tolist"):  # of NumPy, or JAX
        value = value.tolist()
    if isinstance(value, list | tuple | range):
        return tuple(map(plain, value))
    return value


def values_in(value: Any) -> tuple:
    """Returns the values of what is one value or a tuple of several."""
    return value if isinstance(value, tuple) else (value,)


def advice(name: str, keys: Iterable[str]) -> str | None:
    """Returns what to give in place of an unknown key; None if nothing comes near it."""
    by_word = {bare(key): key for key in keys}
    word = bare(name)
    for words, hint in _ADVICE.items():
        if word in words.split() and word not in by_word:
            return hint
    close = difflib.get_close_matches(word, by_word, n=1)
    return f"did you mean {by_word[close[0]]}?" if close else None
