import fcntl
import gzip
import inspect
import json
import os
import re
import shlex
import shutil

import in_process
import pytest
from server import ROOT, snapshot

BASELINE = (f"--config={ROOT / 'configs' / 'baseline.py'}", "--config.dataset=digits")

# --- what a case may need to lie there ---


def file(name, content=b""):
    """Makes a file; content may be bytes, text, or None for a folder."""

    def make(tmp):
        path = tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def link(name, target):
    def make(tmp):
        (tmp / name).parent.mkdir(exist_ok=True)
        (tmp / name).symlink_to(tmp / target)

    return make


def fifo(name):
    return lambda tmp: os.mkfifo(tmp / name)


def config(text):
    return file("config.py", text)


def returning(value):
    return config(f"import ml_collections\ndef get_config():\n    return {value}\n")


def with_key(key, value):
    """A config file that is good but for one key."""
    text = (ROOT / "configs" / "baseline.py").read_text()
    change = f"config.dataset = 'digits'\n    config.{key} = {value}\n    return config"
    text = text.replace("return config", change)
    return config(text.replace("from mnist_jax", "import ml_collections, numpy\nfrom mnist_jax"))


def data(**contents):
    """Four files of a data set, whose headers are those of mnist's and whose contents are short."""

    def make(tmp):
        (tmp / "data").mkdir()
        for name in FILES:
            key = name.replace("-", "_").removesuffix("_ubyte")
            content = contents.get(key, HEADER + b"0")
            if content is not None:
                (tmp / "data" / name).write_bytes(content)

    return make


def finished(name=None, change=None):
    """The work directory of a finished run, with a file that is changed, missing or replaced."""

    def make(tmp, run):
        shutil.copytree(run, tmp / "run")
        shutil.rmtree(tmp / "run" / "checkpoints" / "trials_0_to_0")
        if name is None:
            return
        path = tmp / "run" / name
        content = path.read_bytes() if path.is_file() else b""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if callable(change):
            path.write_bytes(change(content))
        elif change is not None:
            path.write_bytes(change)

    return make


def unfinished(*changes):
    def make(tmp, run):
        finished(*changes)(tmp, run)
        (tmp / "run" / "summary.json").unlink()

    return make


HALF_ROW = b'{"trial": 0, "epoch": 1, "train_loss": 1.0}\n'


def linked(name):
    """An unfinished run, of which something has been moved away and linked."""

    def make(tmp, run):
        shutil.copytree(run, tmp / "run")
        (tmp / "run" / "summary.json").unlink()
        (path,) = (tmp / "run").glob(name)
        path.rename(tmp / "away")
        path.symlink_to(tmp / "away")

    return make


def json_with(**values):
    """Changes keys of a JSON file; those that become None are dropped."""

    def change(content):
        kept = {**json.loads(content), **values}
        return json.dumps({k: v for k, v in kept.items() if v is not None}).encode()

    return change


def in_use(tmp):
    (tmp / "run").mkdir()
    file = open(tmp / "run" / ".lock", "w")  # noqa: SIM115
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
HEADER = bytes([0, 0, 8, 3, 0, 0, 0xEA, 0x60, 0, 0, 0, 28, 0, 0, 0, 28])
MNIST = "--config.dataset=mnist --data_dir={tmp}/data"
NOT_OURS = "...choose another --workdir, or delete it yourself"
OTHER = "choose another --workdir, or give --overwrite"
LACKS_0 = f"a run grows if all its trials are asked for, and that of...seed=0 is not; {OTHER}"
ADDRESS = ": expected a path on this machine, not an address"
REPEAT = "...or put its shards together again"

# What a user may have written: in a network, what makes logits of `x`, images as rows; or all else.
NET = """
import optax
from flax import linen as nn

class Net(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, images, *, train=False):
        x = images.reshape(len(images), -1)
        return {}

{}
"""
SOUND = "nn.Dense(10)(x)"


def net(logits=SOUND, more=""):
    return file("my_net.py", NET.format(logits, more))


# By program: what is given, what the line must say ("..." is anything), and what lies there.
# `main` and `benchmark` are given configs/baseline.py on digits, and `main` the folder {tmp}/run,
# where a case does not say otherwise. Words before the first flag are environment variables.
BAD_INPUT = {
    "main": [
        # Keys of a config.
        ("--config.num_epoch=3", "--config.num_epoch: no such key; did you mean num_epochs?"),
        (
            "--config.nonsense=3",
            "--config.nonsense: no such key; known: augmentation, batch_size, ",
        ),
        ("--config.L2=3", "--config.L2: no such key; did you mean l2?"),
        ("--config=", "--config=: expected a config file"),
        (
            "--config={tmp}/configs",
            "--config={tmp}/configs: that is a folder",
            lambda tmp: (tmp / "configs").mkdir(),
        ),
        ("--config.l2", "--config.l2: no value is given; expected a finite number, 0 or positive"),
        ("--config.l2=0,,1", "--config.l2=0,,1: expected a finite number, 0 or positive (float32)"),
        ("--confg=3", "--confg: no such flag; did you mean --config? see --help"),
        ("--seed", "--seed: no value is given; expected --seed=VALUE"),
        (
            "--distributed_timeout=0",
            "--distributed_timeout=0: expected a whole number of at least 1",
        ),
        ("--config.=3", "--config.: no such key; known: augmentation, batch_size"),
        ("--config.l2.x=3", "--config.l2.x: no such key; did you mean l2?"),
        ("--config.lr=0.1", "--config.lr: no such key; did you mean learning_rate?"),
        ("--config.Base_LR=0.1", "--config.Base_LR: no such key; did you mean learning_rate?"),
        ("--config.adam=True", "adam: no such key; did you mean optimizer, as in --config.optimi"),
        ("--config.dropout=0.5", "dropout: no such key; that is for a model of your own, as in"),
        ("--config.epochs=3", "--config.epochs: no such key; did you mean num_epochs?"),
        ("--config.batch=64", "--config.batch: no such key; did you mean batch_size?"),
        ("--config.seed=1", "--config.seed: no such key; give --seed=42, the first of num_seeds"),
        ("--config.device=cuda", "device: no such key; did you mean platform (cpu, gpu, tpu), or"),
        ("--config.wd=1e-4", "--config.wd: no such key; did you mean weight_decay, or l2?"),
        ("--config.hidden=64", "--config.hidden: no such key; did you mean hidden_sizes of mlp"),
        (
            "--lr=0.1",
            "--lr: no such flag; keys of a config are set by --config.KEY=VALUE: did you mean lear",
        ),
        (
            "--num_epochs=3",
            "--num_epochs: no such flag; keys of a config...: did you mean num_epochs?",
        ),
        (
            "--conv_features=8",
            "--conv_features: no such flag; keys of a config...: did you mean conv_f",
        ),
        ("--config.l2[5]=3", "l2[5]"),
        ("--config.num_seeds", "num_seeds: no value is given; expected a whole number"),
        ("--noconfig.num_seeds", "num_seeds=False: expected a whole number of at least 1"),
        ("--config.num_seeds --seed=1", "num_seeds: no value is given; expected a whole number"),
        ("--config.num_seeds -1", "num_seeds=-1: expected a whole number of at least 1"),
        ("--config.my-key=3", "--config.my-key: no such key; known: augmentation, batch_size, "),
        ("--config.name=mine", "name: no such key; a run has the name of its config file"),
        # The data set and its parts.
        ("--config.dataset=mnst", "dataset=mnst: expected one of mnist, "),
        ("--config.dataset=E-MNIST", "dataset=E-MNIST: expected one of mnist, "),
        ("--config.dataset=", "dataset=: expected one of mnist, "),
        ("--config.dataset=mnist,digits", "dataset=mnist,digits: expected one of"),
        ("--config.dataset=1", "dataset=1: expected one of"),
        (["--config.dataset=mn\nist"], "dataset=mn ist: expected one of"),
        ("--config.num_validation=-1", "num_validation=-1: expected a whole number of at least 0"),
        ("--config.num_validation=1437", "num_validation=1437: expected less than the 1437"),
        ("--config.num_validation=99999999999999999999", "num_validation=9999...less than"),
        ("--config.num_validation=1.5", "num_validation...1.5"),
        ("--config.num_validation=10%", "num_validation...10%"),
        ("--config.num_validation=100,200", "num_validation...100,200"),
        ("--config.num_validation=300", "num_validation=300: expected 0 with protocol=test, wh"),
        ("--config.validation_seed=-1", "validation_seed=-1: expected a whole number from 0"),
        ("--config.protocol=notebook", "protocol=notebook: expected one of test, validation, val"),
        ("--config.protocol=test,validation", "protocol=test,validation: expected one of"),
        ("--config.protocol=", "protocol=: expected one of"),
        (
            "--config.protocol=last_epoch --config.num_validation=300",
            "num_validation=300: expected 0 with protocol=last_epoch, which holds none out; --conf"
            "ig.protocol=validation does",
        ),
        *(
            (f"--config.choose_epoch={value}", "choose_epoch: no such key; that is what protocol")
            for value in ("True", "2", "maybe")
        ),
        # Networks.
        ("--config.hidden_sizes=64,0", "hidden_sizes=(64, 0): expected a tuple of...whole numbers"),
        ("--config.hidden_sizes=-64", "hidden_sizes=(-64,): expected a tuple of...whole numbers"),
        ("--config.hidden_sizes=6.5", "hidden_sizes=(6.5,): expected a tuple of...whole numbers"),
        ("--config.hidden_sizes=many", "hidden_sizes...many"),
        ("--config.hidden_sizes=True", "hidden_sizes=(True,): expected a tuple of...whole numbers"),
        (
            "--config.hidden_sizes=(8,),16",
            "hidden_sizes=16: expected a ...as in ((64,64),(32,))",
        ),
        ("--config.hidden_sizes=(8,),(8,)", "hidden_sizes=((8,), (8,)): expected distinct"),
        (
            "--config.hidden_sizes=((8,),),",
            "hidden_sizes=((8,),): expected a tuple of...whole numbers",
        ),
        ("--config.hidden_sizes=(", "hidden_sizes...("),
        ("--config.hidden_sizes=nan", "hidden_sizes...nan"),
        ("--config.hidden_sizes=() --config.l2=1e-3", "l2=0.001: expected 0, or a hidden layer"),
        ("--config.hidden_sizes=() --config.weight_decay=1", "weight_decay=1.0: expected 0, or"),
        *(
            (f"--config.model=cnn --config.conv_features={given}", f"conv_features={said}")
            for given, said in (
                ("1,1,1,1", "(1, 1, 1, 1): expected at most 3 blocks for images of 28 by 28"),
                ("0", "(0,): expected a tuple of...whole numbers"),
                ("8.5", "(8.5,): expected a tuple of...whole numbers"),
                ("3x3", "3x3: expected a tuple of...whole numbers"),
            )
        ),
        (
            "--config.conv_features=8",
            "conv_features: mlp takes no conv_features, but hidden_sizes; leave it out, or choose "
            "--config.model=cnn",
        ),
        ("--config.model=CNN", "model=CNN: expected mlp, cnn or FILE.py:NAME; did you mean cnn?"),
        ("--config.model=lenet", "model=lenet: expected mlp, cnn or FILE.py:NAME"),
        ("--config.model=mlp,cnn", "model=mlp,cnn: expected one, since its fields are keys"),
        ("--config.model=", "model=: expected mlp, cnn or FILE.py:NAME"),
        ("--config.model=()", "model=: expected one, since its fields are keys"),
        ("--config.model=3", "model=3: expected mlp, cnn or FILE.py:NAME"),
        (
            "--config.hidden_sizes=99999999999999999999",
            "hidden_sizes=(99999999999999999999,): expected",
        ),
        # Networks, optimizers and metrics of one's own.
        (
            "--config.model=my_net.py:Net",
            "my_net.py:Net: no such file here or in ...configs; expected FILE.py:N",
        ),
        ("--config.model=my_net.py:Nett", "did you mean Net? it defines Net", net()),
        ("--config.model=my_net.py", "model=my_net.py: expected FILE.py:NAME, a Python", net()),
        (
            "--config.model=my_net.py:Net --config.rat=1",
            "rat: no such key; did you",
            net(),
        ),
        ("--config.model=my_net.py:Net --config.rate=x", "rate=x: expected a finite", net()),
        *(
            ("--config.model=my_net.py:Net", f"--config.model: Net {said}", net(logits))
            for logits, said in (
                ("nn.Dense(5)(x)", "gives (2, 5) for 2 images; expected logits of shape (2, 10)"),
                ("nn.Dense(10)(x)[0]", "gives (10,) for 2 images; expected logits of shape"),
                ("(nn.Dense(10)(x), x)", "gives tuple for 2 images; expected logits of shape"),
                ("nn.Dense(10)(x).astype(int)", "gives int32; expected logits, floats"),
                ("x[:, :10]", "has no parameters; expected a module that learns"),
                ("1 / 0", "fails on images of shape (2, 28, 28, 1): ZeroDivisionError (line 11)"),
                ("exit()", "fails on images of shape (2, 28, 28, 1): it ends the program"),
                ("nn.Dense(10)(x) + 1 / (not train)", "fails on...: ZeroDivisionError (line 11)"),
            )
        ),
        (
            "--config.model=my_net.py:Net --config.rate=0.25,0.5",
            "rate=0.25,0.5: expected one value, since shapes or branches in my_net.py:Net depend",
            net(f"nn.Dropout(self.rate, deterministic=not train)({SOUND})"),
        ),
        *(
            (f"--config.{key}=my_net.py:own", f"{key}=my_net.py:own: {said}", net(more=own))
            for key, own, said in (
                ("optimizer", "def own(rate): return 3", "gives an object of type int; expected"),
                ("optimizer", "def own(rate, b=0.5): return optax.sgd(b and rate)", "the call fai"),
                ("optimizer", "def own(rate, b): ...", "b has no default; give it one"),
                ("optimizer", "def own(rate): raise OSError('no luck')", "...OSError...no luck"),
                ("optimizer", "own = 3", "expected the name of a class or function of the file"),
                ("metrics", "def own(logits): return logits", "...TypeError"),
                (
                    "metrics",
                    "def own(logits, labels): return logits",
                    "gives...(11, 10)",
                ),
                (
                    "model",
                    "def own(images): return images",
                    "expected a class of flax.linen.",
                ),
            )
        ),
        ("--config.optimizer=adam", "optimizer=adam: expected sgd, adamw...did you mean adamw?"),
        ("--config.optimizer=", "optimizer=: expected sgd, adamw, lion, muon or FILE.py:NAME"),
        ("--config.optimizer=()", "optimizer=(): expected at least one value"),
        ("--config.optimizer=sgd,sgd", "optimizer=('sgd', 'sgd'): expected distinct values"),
        (
            "--config.b1=0.5",
            "b1: sgd takes no b1, but nesterov, learning_rate, mom...; leave it out",
        ),
        (
            "--config.optimizer=sgd,adamw --config.grid=list --config.momentum=0.9,0.8",
            "momentum=0.8: adamw does not take it; with --config.grid=list give 0.0 where the",
        ),
        ("--config.metrics=loss", "metrics=loss: expected top_2_accuracy, brier_score, confiden"),
        ("--config.metrics=1", "metrics=1: expected names between commas"),
        ("--config.metrics=confidence,confidence", "confidence: expected a name of its own"),
        ("--config.ema_decay=1", "ema_decay=1: expected a finite number, from 0 to below 1"),
        # Epochs and batches.
        ("--config.num_epochs=0", "num_epochs=0: expected a whole number of at least 1"),
        ("--config.num_epochs=-2", "num_epochs=-2: expected a whole number of at least 1"),
        ("--config.num_epochs=1.5", "num_epochs=1.5: expected a whole number of at least 1"),
        ("--config.num_epochs=1e3", "num_epochs=1000.0: expected a whole number of at least 1"),
        ("--config.num_epochs=True", "num_epochs=True: expected a whole number of at least 1"),
        ("--config.num_epochs=ten", "num_epochs=ten: expected a whole number of at least 1"),
        ("--config.num_epochs=()", "num_epochs=(): expected at least one value"),
        ("--config.num_epochs=2,2", "num_epochs=(2, 2): expected distinct values"),
        ("--config.num_epochs=2,0", "num_epochs=0: expected a whole number of at least 1"),
        ("--config.num_epochs=999999999", "num_epochs=999999999: expected"),
        ("--config.num_epochs=99999999999999999999", "num_epochs=99999999999999999999: expected"),
        ("--config.batch_size=0", "batch_size=0: expected a whole number of at least 1"),
        ("--config.batch_size=1438", "batch_size=1438: expected at most 1437, the training"),
        ("--config.batch_size=64,1438", "batch_size=1438: expected at most 1437"),
        ("--config.batch_size=128.0", "batch_size=128.0: expected a whole number"),
        ("--config.batch_size=-128", "batch_size=-128: expected a whole number"),
        ("--config.batch_size=all", "batch_size=all: expected a whole number"),
        (
            "--config.protocol=validation --config.num_validation=1436",
            "batch_size=128: expected at most 1, the training",
        ),
        # Training.
        ("--config.learning_rate=0", "learning_rate=0: expected a finite number, positive"),
        ("--config.learning_rate=-0.1", "learning_rate=-0.1: expected a finite number, positive"),
        ("--config.learning_rate=inf", "learning_rate=inf: expected a finite number, positive"),
        ("--config.learning_rate=nan", "learning_rate=nan: expected a finite number, positive"),
        ("--config.learning_rate=1e999", "learning_rate=inf: expected a finite number, positive"),
        ("--config.learning_rate=1e39", "learning_rate=1e+39: expected"),
        ("--config.learning_rate=1e-60", "learning_rate=1e-60: expected"),
        (["--config.learning_rate=1" + "0" * 400], "learning_rate=1000...: expected"),
        ("--config.learning_rate=0.1;0.2", "learning_rate=0.1;0.2: expected a finite number"),
        ("--config.learning_rate=0,1", "learning_rate=0: expected a finite number, positive"),
        ("--config.learning_rate=fast", "learning_rate=fast: expected a finite number, positive"),
        ("--config.learning_rate=True", "learning_rate=True: expected a finite number, positive"),
        ("--config.learning_rate=1j", "learning_rate=1j: expected a finite number, positive"),
        ("--config.learning_rate=", "learning_rate"),
        ("--config.schedule=cosinus", "schedule=cosinus: expected one of constant, cosine, linear"),
        ("--config.schedule=", "schedule=: expected one of constant, cosine, linear"),
        (
            "--config.schedule=cosine,,linear",
            "schedule=cosine,,linear: expected one of constant, cosine, linear",
        ),
        ("--config.schedule=cosine,cosine", "schedule=...expected distinct values"),
        ("--config.schedule=1", "schedule=1: expected one of constant"),
        ("--config.warmup_steps=120", "warmup_steps=120: expected less than all 120 training"),
        ("--config.warmup_steps=-1", "warmup_steps=-1: expected a whole number of at least 0"),
        ("--config.warmup_steps=1.5", "warmup_steps=1.5: expected a whole number of at least 0"),
        ("--config.momentum=1", "momentum=1: expected a finite number, from 0 to below 1"),
        ("--config.momentum=-0.1", "momentum=-0.1: expected a finite number, from 0 to below 1"),
        ("--config.momentum=0.9,1", "momentum=1: expected a finite number, from 0 to below 1"),
        ("--config.momentum=nan", "momentum=nan: expected a finite number, from 0 to below 1"),
        ("--config.momentum=0.99999999999", "momentum=0.99999999999: expected"),
        ("--config.nesterov=True", "nesterov=True: expected False, or a momentum above 0"),
        ("--config.nesterov=yes", "nesterov=yes: expected True or False"),
        ("--config.nesterov=1", "nesterov=1: expected True or False"),
        ("--config.l2=-1", "l2=-1: expected a finite number, 0 or positive"),
        ("--config.l2=nan", "l2=nan: expected a finite number, 0 or positive"),
        ("--config.l2=inf", "l2=inf: expected a finite number, 0 or positive"),
        ("--config.l2=()", "l2=(): expected at least one value"),
        ("--config.l2=0.1,0.1", "l2=(0.1, 0.1): expected distinct values"),
        ("--config.l2=0,0.0", "l2=(0, 0.0): expected distinct values"),
        ("--config.l2=small", "l2=small: expected a finite number, 0 or positive"),
        ("--config.l2=1e39", "l2=1e+39: expected"),
        ("--config.l2=(0,1),(2,3)", "l2=(0, 1): expected a finite number"),
        ("--config.l2=None", "l2=None: expected a finite number"),
        ("--config.l2={{0}}", "l2={{0}}: expected a finite number"),
        ("--config.l2_on_output=maybe", "l2_on_output=maybe: expected True or False"),
        ("--config.l2_on_output=True,1", "l2_on_output=1: expected True or False"),
        ("--config.weight_decay=-1", "weight_decay=-1: expected a finite number, 0 or positive"),
        ("--config.weight_decay=1e39", "weight_decay=1e+39: expected"),
        ("--config.label_smoothing=1", "label_smoothing=1: expected a finite number, from 0 to"),
        ("--config.label_smoothing=-0.1", "label_smoothing=-0.1: expected a finite number, from 0"),
        # Grids and searches.
        ("--config.grid=grid", "grid=grid: expected one of product, list, random, halton"),
        ("--config.grid=", "grid=: expected one of product, list, random, halton"),
        ("--config.grid=random", "num_points=0: expected 1 or more"),
        ("--config.grid=halton", "num_points=0: expected 1 or more"),
        ("--config.num_points=3", "num_points=3: expected 0, with --config.grid=product"),
        ("--config.grid=list --config.num_points=3", "num_points=3: expected 0, with"),
        ("--config.grid=random --config.num_points=-3", "num_points=-3: expected a whole number"),
        ("--config.grid=random --config.num_points=2.5", "num_points...2.5"),
        ("--config.grid=random --config.num_points=3", "grid=random: nothing to search; give"),
        ("--config.grid=halton --config.num_points=3", "grid=halton: nothing to search; give"),
        (
            "--config.grid=list --config.l2=0,1 --config.momentum=0,0.1,0.2",
            "grid=list: expected as many values...momentum 3, l2 2; give each the same",
        ),
        (
            "--config.grid=random --config.num_points=3 --config.l2=0,1",
            "l2=(0.0, 1.0): expected two positive numbers, the ends of the range",
        ),
        (
            "--config.grid=halton --config.num_points=3 --config.learning_rate=0.1,0.2,0.3",
            "learning_rate=(0.1, 0.2, 0.3): expected two positive numbers",
        ),
        (
            "--config.grid=halton --config.num_points=3 --config.momentum=0,0.5,0.9",
            "momentum=(0.0, 0.5, 0.9): expected two numbers",
        ),
        (
            "--config.grid=halton --config.num_points=3 --config.warmup_steps=0,120,200",
            "warmup_steps=(0, 120, 200): expected two numbers",
        ),
        (
            "--config.grid=random --config.num_points=999999999999 --config.l2=1e-5,1",
            "999999999999 trials: expected at most 1000000; give fewer",
        ),
        ("--config.l2=0,1e-3 --config.num_seeds=1000000", "2000000 trials: expected at most"),
        ("--config.design_seed=-1", "design_seed=-1: expected a whole number from 0"),
        ("--config.design_seed=4294967296", "design_seed=4294967296: expected a whole number from"),
        ("--config.design_seed=x", "design_seed...x"),
        ("--config.num_seeds=0", "num_seeds=0: expected a whole number of at least 1"),
        ("--config.num_seeds=-1", "num_seeds=-1: expected a whole number of at least 1"),
        ("--config.num_seeds=2.5", "num_seeds...2.5"),
        ("--config.num_seeds=1,2", "num_seeds...1,2"),
        ("--config.num_seeds=1000001", "num_seeds=1000001: expected at most 1000000"),
        # How it is run.
        ("--config.checkpoint_epochs=0", "checkpoint_epochs=0: expected a whole number of at"),
        ("--config.checkpoint_epochs=0.5", "checkpoint_epochs...0.5"),
        ("--config.checkpoints_kept=0", "checkpoints_kept=0: expected a whole number of at least"),
        ("--config.checkpoints_kept=-2", "checkpoints_kept=-2: expected a whole number of at"),
        ("--config.devices=-1", "devices=-1: expected a whole number of at least 0"),
        ("--config.devices=all", "devices...all"),
        ("--config.devices=0,1", "devices...0,1"),
        ("--config.deterministic=2", "deterministic...2"),
        ("--config.devices=999 --config.num_seeds=999", "devices=999: expected at most...give 0"),
        ("--config.platform=gpu", "platform=gpu: JAX finds none, but cpu; install JAX for it"),
        ("--config.platform=tpu", "platform=tpu: JAX finds none, but cpu; install JAX for it"),
        ("--config.platform=CPU", "platform=CPU: expected one of '', cpu, gpu, tpu"),
        ("--config.platform=cuda", "platform=cuda: expected one of '', cpu, gpu, tpu"),
        ("--config.precision=tf32", "precision=tf32: expected float32, as a cpu computes"),
        ("--config.precision=bfloat16", "precision=bfloat16: expected float32, as a cpu computes"),
        ("--config.precision=float64", "precision=float64: expected one of float32, tf32, bfloat"),
        ("--config.precision=", "precision=: expected one of float32, tf32, bfloat16"),
        ("--shard=1/1", "--shard=1/1: expected i/n with i from 0 to n - 1 and n at most 1, the"),
        ("--shard=0/2", "--shard=0/2: expected i/n...n at most 1, the number of trials"),
        ("--shard=2/2 --config.num_seeds=2", "--shard=2/2: expected i/n with i from 0 to n - 1"),
        ("--shard=-1/2 --config.num_seeds=2", "--shard=-1/2: expected i/n with i from 0 to n - 1"),
        ("--shard=0/0", "--shard=0/0: expected i/n"),
        ("--shard=1", "--shard=1: expected i/n"),
        ("--shard=", "--shard=: expected i/n"),
        ("--shard=1/2/3 --config.num_seeds=3", "--shard=1/2/3: expected i/n"),
        ("--distributed=", "--distributed=: expected auto, or i/n@host:port"),
        ("--distributed=2", "--distributed=2: expected auto, or i/n@host:port with i from 0 to"),
        ("--distributed=2/2@localhost:1", "--distributed=2/2@localhost:1: expected auto, or i/n"),
        ("--distributed=0/2@localhost", "--distributed=0/2@localhost: expected auto, or i/n@host:"),
        ("--distributed=auto", "--distributed=auto: no job of Slurm, Open MPI, Kubernetes"),
        # Flags.
        ("--overwrite=maybe", "--overwrite=maybe: expected True or False; see --help"),
        ("--seed=-1", "--seed=-1: expected a whole number from 0 to 4294967295"),
        ("--seed=4294967296", "--seed=4294967296: expected a whole number from 0 to 4294967295"),
        ("--seed=4294967295 --config.num_seeds=2", "--seed=4294967295: expected a whole number"),
        ("--seed=one", "--seed=one: expected a whole number from 0 to 4294967295, or several as"),
        ("--seed=1.0", "--seed=1.0: expected a whole number"),
        ("--seed=1e3", "--seed=1000.0: expected a whole number"),
        ("--seed=", "--seed=: expected a whole number"),
        ("--seed=True", "--seed=True: expected a whole number"),
        (
            "--seed=42,1.5",
            "--seed=42,1.5: expected a whole number from 0 to 4294967295, or",
        ),
        ("--seed=42,-1", "--seed=42,-1: expected a whole number"),
        ("--seed=42,4294967296", "--seed=42,4294967296: expected a whole number from 0 to"),
        ("--seed=42,,7", "--seed=42,,7: expected a whole number"),
        ("--seed=()", "--seed=: expected a whole number"),
        ("--seed=(1,2),(3,4)", "--seed=(1, 2),(3, 4): expected a whole number"),
        ("--seed=42,7,42", "--seed=42,7,42: expected seeds that differ"),
        (
            "--seed=42,7 --config.num_seeds=3",
            "--config.num_seeds=3: expected 2, for the seeds 42,7; leave it out...another --seed",
        ),
        ("--seed=42,7 --shard=0/3", "--shard=0/3: expected i/n...n at most 2"),
        ("--sed=1", "--sed: no such flag; did you mean --seed? see --help"),
        ("--peers=torch", "peers...see --help"),
        ("--output=here", "--output: no such flag; keys...: give --workdir=DIR"),
        ("--no-overwrite", "no-overwrite...see --help"),
        ("--flagfile={tmp}/nowhere", "--flagfile={tmp}/nowhere: cannot be read (No such"),
        ("--verbosity=loud", "verbosity...loud"),
        ("baseline", "baseline: unexpected; every option is a flag"),
        ("-", "-: unexpected; every option is a flag"),
        ("--seed=1 configs/cnn.py", "configs/cnn.py: unexpected; every option is a flag"),
        ("\u2013seed=1", "\u2013seed=1: unexpected; every option is a flag"),
        ("--workdir", "workdir...see --help"),
        ("--workdir=", "--workdir=: expected a folder"),
        (
            "--workdir=gs://bucket/run",
            f"--workdir=gs://bucket/run{ADDRESS}",
        ),
        (
            "--config=s3://bucket/a.py",
            f"--config=s3://bucket/a.py{ADDRESS}",
        ),
        # Config files.
        ("--config=", "--config=: ...expected a config file"),
        ("--seed=1 --config", "config"),
        ("--config={tmp}/nowhere.py", "nowhere.py: no such file; expected a config file such as"),
        ("--config={tmp}/nowhere/a.py:7", "a.py:7: no such file; expected a config file such as"),
        ("--config=~nobody_here/a.py", "--config=~nobody_here/a.py: no such home directory; give"),
        (["--config=" + "n" * 300], "nnn: no config has that name; expected baseline,"),
        (["--config=" + "n" * 300 + ".py"], "n.py: cannot be read (File name too long); expected"),
        (
            "--config={tmp}/confg",
            "no such file; did you mean {tmp}/config.py? expected a config file",
            config(""),
        ),
        ("--config={tmp}", "--config={tmp}: that is a folder; expected a config file"),
        ("--config={tmp}/a.json", "that is a folder; expected a config", file("a.json", None)),
        ("--config={tmp}/a.py", "cannot be read (it is not a regular file)", fifo("a.py")),
        (
            "--config=/dev/zero",
            "--config=/dev/zero: ends in neither .py nor .json; expected a config",
        ),
        (
            "--config={tmp}/a.py",
            "a.py: larger than 16777216 bytes; expected a config",
            file("a.py", bytes(2**24 + 1)),
        ),
        (
            "--config={tmp}/a.md",
            "a.md: ends in neither .py nor .json; expected",
            file("a.md", "# No"),
        ),
        ("--config={tmp}/config.py:7", "config.py:7: TypeError: ...1 was given", returning("3")),
        *(
            ("--config={tmp}/config.py", f"config.py: {said}; mend the config file", config(text))
            for text, said in (
                ("def get_config(:", "SyntaxError (line 1): invalid syntax"),
                ("x = 1", "AttributeError: there is no function get_config in it"),
                ("", "AttributeError: there is no function get_config in it"),
                ("get_config = 3", "TypeError: 'int' object is not callable"),
                ("\nimport nonsense", "ModuleNotFoundError (line 2): No module named 'nonsense'"),
                (b"x = 1\0", "...null bytes"),
                (b"x = '\xff'", "SyntaxError...utf-8..."),
                (
                    "def get_config(): raise RuntimeError('no\\nluck')",
                    "RuntimeError (line 1): no luck",
                ),
                (
                    "def get_config(): open('/nowhere')",
                    "FileNotFoundError (line 1): ...No such file or directory: '/nowhere'",
                ),
                ("def get_config(): raise SystemExit", "it ends the program"),
                ("def get_config(): return get_config()", "RecursionError...recursion depth..."),
                ("def get_config(): return 3", "TypeError: get_config returns 3, not a ConfigDict"),
                ("def get_config(): pass", "TypeError: get_config returns None, not a ConfigDict"),
                (
                    "from ml_collections import ConfigDict\ndef get_config():\n"
                    "    config = ConfigDict({'l2': (0.1,)})\n    config.l2 = 0.2\n",
                    "TypeError (line 4): ...'l2'...; ml_collections.ConfigDict(type_safe=False)...",
                ),
            )
        ),
        (
            "--config={tmp}/config.py",
            "config key l3: unknown; known: augmentation, batch_size",
            returning("ml_collections.ConfigDict({'l3': 1.0})"),
        ),
        *(
            (
                "--config={tmp}/config.py",
                said,
                config(
                    "from mnist_jax import default_config\n"
                    f"def get_config():\n    config = default_config({arguments})\n"
                    f"    config.{line}\n    return config"
                ),
            )
            for arguments, line, said in (
                (
                    "",
                    "learning_rat = 1",
                    "py: there is no key learning_rat; did you mean lear",
                ),
                ("", "lr = 1", "py: there is no key lr; did you mean learning_rate?; mend the con"),
                (
                    "",
                    "abcdefgh = 1",
                    "py: there is no key abcdefgh; --help lists the keys; mend",
                ),
                (
                    "",
                    "optimizer = 'adamv'",
                    "--config.optimizer=adamv: ...; did you mean adamw",
                ),
                ("", "model = 'cnm'", "py: --config.model=cnm: expected mlp, cnn or FILE.py:NAME"),
                ("'cn'", "l2 = 1", "py: --config.model=cn: expected mlp, cnn or FILE.py:NAME; did"),
                ("optimizer='adamw'", "momentum = 1", "py: there is no key momentum"),
                ("'my_net.py:Net'", "l2 = 1", "py: --config.model=my_net.py:Net: no such file"),
            )
        ),
        ("--config={tmp}/config.py", "dataset=None: expected one of", with_key("dataset", "None")),
        (
            "--config={tmp}/config.py",
            "dataset=mnist,digits: expected one of",
            with_key("dataset", "['mnist', 'digits']"),
        ),
        ("--config={tmp}/config.py", "l2=None: expected a finite number", with_key("l2", "None")),
        ("--config={tmp}/config.py", "l2={1}: expected a finite number", with_key("l2", "{1}")),
        ("--config={tmp}/config.py", "l2={}: expected a finite number", with_key("l2", "({},)")),
        (
            "--config={tmp}/config.py",
            "l2=(0.0, 0.0): expected distinct values",
            with_key("l2", "numpy.zeros(2)"),
        ),
        (
            "--config={tmp}/config.py",
            "l2=nan: expected a finite number",
            with_key("l2", "numpy.array([0, numpy.nan])"),
        ),
        (
            "--config={tmp}/config.py",
            "num_epochs=2.0: expected a whole number",
            with_key("num_epochs", "numpy.float32(2)"),
        ),
        (
            "--config={tmp}/config.py",
            "l2=...: expected a finite number",
            with_key("l2", "ml_collections.ConfigDict({'a': 1, 'b': 2})"),
        ),
        (
            "--config={tmp}/config.py",
            "RequiredValueError: None value found in required reference; mend the config file",
            with_key("l2", "ml_collections.config_dict.required_placeholder(float)"),
        ),
        (
            "--config={tmp}/config.py",
            "num_seeds=None: expected a whole number",
            with_key("num_seeds", "ml_collections.config_dict.placeholder(int)"),
        ),
        (
            "--config={tmp}/config.py",
            "hidden_sizes=(64.0,): expected a tuple of...whole",
            with_key("hidden_sizes", "[64.0]"),
        ),
        (
            "--config={tmp}/config.py",
            "--config={tmp}/config.py: schedule=1: expected one of constant, cosine, linear; the v",
            with_key("schedule", "(1,)"),
        ),
        (
            "--config={tmp}/config.py",
            "grid=list,product: expected one of",
            with_key("grid", "['list', 'product']"),
        ),
        # Records of runs.
        *(
            (
                "--config={tmp}/config.json",
                "config.json: not the config.json of a run (...); expected a config file such as",
                file("config.json", content),
            )
            for content in ("", "{", "[]", "3", "{}", "[" * 99999, b"\xff", '{"name": "a"}')
        ),
        *(
            ("--config={tmp}/run/config.json", said, finished("config.json", json_with(**changes)))
            for said, changes in (
                ("'../up' cannot be the name of a run", {"name": "../up"}),
                ("'..' cannot be the name of a run", {"name": ".."}),
                ("not the config.json of a run", {"name": 3}),
                ("not the config.json of a run", {"seed": None}),
                ("config key l3: unknown; known: augmentation, batch_size", {"l3": 1}),
                ("l2=x: expected a finite number", {"l2": ["x"]}),
                ("l2={}: expected a finite number", {"l2": {}}),
                ("--seed=1.5: expected a whole number", {"seed": 1.5}),
                ("not the config.json of a run", {"shard": 7}),
                ("--shard=7: expected i/n", {"shard": "7"}),
            )
        ),
        (
            "--config={tmp}/run/config.json --config.num_seeds=3",
            "--config.num_seeds=3: expected 2, for the seeds 4,2",
            finished("config.json", json_with(seed=[4, 2], num_seeds=2)),
        ),
        (
            "--config={tmp}/run/config.json --workdir={tmp}/run --seed=1",
            f"differs in seed (0, not 1); {LACKS_0}",
            finished(),
        ),
        # Data.
        (MNIST, "--data_dir={tmp}/data is not a folder; it should hold train-images"),
        (MNIST, "--data_dir={tmp}/data is empty, not a folder", file("data", "")),
        (MNIST, "--data_dir={tmp}/data is a file, not a folder", file("data", "mine")),
        (MNIST, "--data_dir={tmp}/data is not a folder", link("data", "nowhere")),
        (MNIST, "--data_dir={tmp}/data is empty; it should hold", file("data", None)),
        (MNIST, "holds no file of mnist, but archive.zip; it should", file("data/archive.zip")),
        (MNIST, "is a zip archive: unpack it, not a folder", file("data", b"PK\3\4" + bytes(30))),
        (MNIST, "is a Git LFS pointer", file("data", "version https://git-lfs.github.com/spec/v1")),
        (MNIST, "{tmp}/data lacks train-labels...; add it", data(train_labels_idx1=None)),
        (MNIST, "lacks train-images-idx3-ubyte of mnist; add it", data(train_images_idx3=None)),
        (MNIST, "lacks train-labels...; add it", file("data/train-images-idx3-ubyte.gz")),
        (MNIST, "lacks train-labels...; add it", file("data/mnist/train-images-idx3-ubyte")),
        (MNIST, "train-images-idx3-ubyte: ...; replace it with the original", data()),
        (MNIST, "train-images...; replace it", data(train_images_idx3=b"")),
        (
            MNIST,
            "train-images...it is a web page...; replace it",
            data(train_images_idx3=b"<!DOCTYPE html>" * 9),
        ),
        (MNIST, "train-images...claims dimensions", data(train_images_idx3=HEADER[:7] + b"0" * 9)),
        (
            MNIST,
            "train-images...gzip...; replace it",
            data(train_images_idx3=gzip.compress(HEADER)[:-9]),
        ),
        (MNIST, "train-images...; replace it", data(train_images_idx3=b"\x1f\x8b" + bytes(99))),
        (MNIST, "mnist.npz: it is not Keras' mnist.npz...; replace it", file("data/mnist.npz")),
        (
            MNIST,
            "mnist.npz: it is not Keras' mnist.npz...; replace it",
            file("data/mnist.npz", b"PK\5\6" + bytes(18)),
        ),
        ("--config.dataset=kmnist --data_dir={tmp}/data", "train-images...; replace it", data()),
        (
            "--config.dataset=fashion_mnist --data_dir={tmp}/data",
            "holds no file of fashion_mnist",
            file("data/mnist.npz"),
        ),
        ("--config.dataset=mnist --data_dir=~nobody_here", "--data_dir=~nobody_here: no such home"),
        ("--config.dataset=mnist --data_dir=gs://bucket/a", "--data_dir=gs://bucket/a: expected a"),
        ("--data_dir=gs://bucket/a", "--data_dir=gs://bucket/a: expected a path on this machine"),
        (["--config.dataset=mnist", "--data_dir=/no\nwhere"], "--data_dir=/no where is not"),
        (f"MNIST_JAX_CACHE_DIR=~nobody_here/a {MNIST}", "~nobody_here/a: no such home", data()),
        (f"MNIST_JAX_CACHE_DIR=s3://a {MNIST}", "MNIST_JAX_CACHE_DIR=s3://a: expected a", data()),
        ("MNIST_JAX_CACHE_DIR=gs://a/b", "MNIST_JAX_CACHE_DIR=gs://a/b: expected a path on this"),
        ("MNIST_JAX_CACHE_DIR= XDG_CACHE_HOME=~nobody_here", "XDG_CACHE_HOME=~nobody_here: no"),
        (
            "MNIST_JAX_DATA_DIR=gs://bucket --config.dataset=mnist",
            "MNIST_JAX_DATA_DIR=gs://bucket: expected a path on this machine",
        ),
        (
            "MNIST_JAX_DATA_DIR={tmp}/data --config.dataset=mnist",
            "{tmp}/data lacks",
            data(train_labels_idx1=None),
        ),
        # Work directories.
        (
            "--workdir={tmp}/file",
            "--workdir={tmp}/file cannot be written...is a file",
            file("file"),
        ),
        ("--workdir={tmp}/file/run", "cannot be written...is a file", file("file")),
        ("--workdir=/dev/null/run", "--workdir=/dev/null/run cannot be written"),
        ("--workdir=~nobody_here/run", "--workdir=~nobody_here/run"),
        (["--workdir={tmp}/" + "n" * 300], "nnn cannot be written...choose another --workdir"),
        ("--workdir={tmp}/link", "link cannot be written", link("link", "nowhere/at/all")),
        ("--workdir={tmp}/link", "link cannot be written", link("link", "link")),
        ("", "--workdir={tmp}/run cannot be written", file("run/.lock", None)),
        ("", "--workdir={tmp}/run is in use by a run that has not ended; wait for it", in_use),
        ("--overwrite", "--workdir={tmp}/run is in use by a run that has not ended", in_use),
        ("--config.l2=1,1e-3", f"differs in l2 ([0.0], not [1.0, 0.001]); {LACKS_0}", finished()),
        ("--config.l2=1,1e-3", f"differs in l2 ([0.0], not [1.0, 0.001]); {LACKS_0}", unfinished()),
        ("--seed=1", f"differs in seed (0, not 1); {LACKS_0}", finished()),
        ("--config.deterministic=True", "differs in deterministic (False, not True)", finished()),
        ("", "differs in l3 (1, not None)", finished("config.json", json_with(l3=1))),
        ("", "differs in l2 (None, not [0.0])", finished("config.json", json_with(l2=None))),
        ("", "differs in name (cnn, not baseline)", finished("config.json", json_with(name="cnn"))),
        ("", "differs in l2 (a b, not", finished("config.json", json_with(l2="a\nb"))),
        # What no run says that it made, which a run would overwrite, or delete.
        *(
            (given, f"{{tmp}}/run holds {what}...{NOT_OURS}", make)
            for given in ("", "--overwrite")
            for what, make in (
                ("results.csv, which", file("run/results.csv", "mine")),
                ("report.md, which", file("run/report.md", "mine")),
                ("figures, which", file("run/figures/mine.png", "mine")),
                ("checkpoints, which", file("run/checkpoints/mine", "")),
                ("config.json, which...(config.json: ", file("run/config.json", "{}")),
                ("config.json, which...(config.json: ", file("run/config.json", '{"l2": [0]}')),
                ("config.json, which...(config.json: ", file("run/config.json", "[]")),
                ("config.json, which...(config.json: ", file("run/config.json", "null")),
                ("config.json, which...(config.json: ", file("run/config.json", "")),
                ("config.json, which...(config.json: ", file("run/config.json", "{")),
                ("config.json, which...(config.json: ", file("run/config.json", b"\xff\xfe")),
                ("config.json, which...(config.json: ", file("run/config.json", "[" * 99999)),
                ("config.json, which...(config.json: ", file("run/config.json", None)),
                ("config.json, metrics.jsonl, ", finished("config.json", b"{")),
            )
        ),
        *(
            (
                "--overwrite",
                f"{{tmp}}/run holds a run, but {what} in it...; delete it yourself",
                make,
            )
            for what, make in (
                ("figures", linked("figures")),
                ("metrics.jsonl", linked("metrics.jsonl")),
                ("checkpoints", finished("checkpoints", b"")),
            )
        ),
        *(
            (
                [f"--workdir={{tmp}}/a{character}b"],
                f"a{shown}b': expected no control characters",
                None,
            )
            for character, shown in (
                ("\n", "\\n"),
                ("\t", "\\t"),
                ("\x1b[31m", "\\x1b[31m"),
                ("\x7f", "\\x7f"),
                ("\x9b", "\\x9b"),
                ("\u2028", "\\u2028"),
            )
        ),
        # Links, at whose ends a run would write and delete.
        ("", "{tmp}/run/checkpoints is a link...put a folder", linked("checkpoints")),
        ("", "{tmp}/run/checkpoints/trials_0_to_0 is a link", linked("checkpoints/trials_*")),
        ("", "/trials_0_to_0/10 is a link", linked("checkpoints/trials_*/10")),
        (
            "--overwrite",
            "{tmp}/run holds a run, but checkpoints in it is a link",
            linked("checkpoints"),
        ),
        ("", "{tmp}/run holds checkpoints, which may be", link("run/checkpoints", "nowhere")),
        # A finished run that is damaged.
        ("", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"")),
        ("", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"[]")),
        ("", f"{{tmp}}/run{REPEAT}", finished("metrics.jsonl", lambda content: content[:-9])),
        ("", "{tmp}/run...expected results.csv in it", finished("results.csv")),
        ("", "{tmp}/run...expected metrics.jsonl in it", finished("metrics.jsonl")),
        # ... or whose files are of another run.
        (
            "",
            f"summary.json: it is of another{REPEAT}",
            finished("summary.json", json_with(run="x")),
        ),
        (
            "",
            f"{{tmp}}/run{REPEAT}",
            finished("results.csv", lambda c: c.replace(b",64-64,", b",8,")),
        ),
    ],
    "report": [
        ("", "0 arguments: expected...see --help"),
        ("{tmp}/run {tmp}/run", "{tmp}/run: named twice; expected different runs", finished()),
        ("{tmp}/nowhere", "{tmp}/nowhere holds no finished run: expected config.json in it; name"),
        ("{tmp}", "{tmp} holds no finished run: expected config.json in it; name the work"),
        ("{tmp}/file", "{tmp}/file", file("file")),
        ("~nobody_here", "~nobody_here: no such home directory; give another path"),
        (["{tmp}/" + "n" * 300], "nnn cannot be read as a run"),
        ([""], "expected"),
        (
            "{tmp}/run",
            "{tmp}/run: there is nothing to report yet, since no epoch has ended; python",
            unfinished("metrics.jsonl", b""),
        ),
        ("{tmp}/run --tensorboard=", "--tensorboard=: expected a folder", finished()),
        ("{tmp}/run --tensorboard={tmp}/run", "run: holds a run; expected a", finished()),
        ("{tmp}/run --tensorboard=gs://a/b", "gs://a/b: expected a path on this", finished()),
        ("{tmp}/run {tmp}/run --follow", "--follow: 2 directories; expected one", finished()),
        ("{tmp}/run", "expected config.json in it", finished("config.json")),
        ("{tmp}/run", "metrics.jsonl: its rows lack", unfinished("metrics.jsonl", HALF_ROW)),
        ("{tmp}/run", "expected metrics.jsonl in it", finished("metrics.jsonl")),
        ("{tmp}/run", "expected results.csv in it", finished("results.csv")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("config.json", b"{")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("config.json", b"[]")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("config.json", b"{}")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("config.json", json_with(name=None))),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("config.json", b"[" * 99999)),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"null")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"{}")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", b"\xff")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", json_with(protocol="x"))),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", json_with(grid=None))),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", json_with(grid=[]))),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("summary.json", json_with(grid=[{}]))),
        (
            "{tmp}/run",
            f"{{tmp}}/run{REPEAT}",
            finished("summary.json", json_with(provenance=None)),
        ),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("metrics.jsonl", b"")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("metrics.jsonl", b"3\n")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("metrics.jsonl", b"{}\n")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("metrics.jsonl", lambda c: c[:-9])),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("results.csv", b"")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("results.csv", b"\xff\n")),
        ("{tmp}/run", f"{{tmp}}/run{REPEAT}", finished("results.csv", b"trial\n0\n")),
        (
            "{tmp}/run",
            f"{{tmp}}/run{REPEAT}",
            finished("results.csv", lambda c: c.splitlines(keepends=True)[0]),
        ),
        (
            "{tmp}/run",
            "{tmp}/run/figures cannot be written...make",
            finished("figures", b""),
        ),
        ("{tmp}/run --nonsense", "nonsense...see --help", finished()),
        ("{tmp}/run --seed=1", "--seed...see --help", finished()),
        ("{tmp}/run --config.l2=1", "--config...see --help", finished()),
        ("gs://bucket/run", f"gs://bucket/run{ADDRESS}"),
        ("{tmp}/run s3://bucket/run", f"s3://bucket/run{ADDRESS}"),
        (
            "{tmp}/run --output=gs://bucket/report",
            f"--output=gs://bucket/report{ADDRESS}",
            finished(),
        ),
        ("{tmp}/run --overwrite", "--overwrite...see --help", finished()),
        ("--workdir={tmp}/run", "...see --help", finished()),
    ],
    "benchmark": [
        ("--workdir={tmp}/run", "--workdir={tmp}/run: a benchmark has...give --json=FILE"),
        ("--overwrite", "--overwrite=...: a benchmark has"),
        ("--config.num_epoch=3", "num_epoch: no such key; did you mean num_epochs?"),
        ("--config.l2=-1", "l2=-1: expected a finite number, 0 or positive"),
        ("--config=", "--config=...expected a config file"),
        ("--peers=tensorflow", "--peers=tensorflow: unknown; expected some of keras, keras-jax, "),
        ("--peers=keras,caffe", "--peers=caffe: unknown; expected some of keras"),
        ("--peers=,", "--peers=: unknown; expected some of keras"),
        ("--peers=flax --config.momentum=0.9 --config.nesterov=True", "nesterov=True: expected"),
        ("--peers=flax --config.schedule=cosine", "schedule=cosine: expected constant, since the"),
        ("--peers=flax --config.warmup_steps=5", "warmup_steps=5: expected 0, since the peers"),
        ("--peers=flax --config.weight_decay=0.1", "weight_decay=0.1: expected 0, since the"),
        ("--peers=flax --config.label_smoothing=0.1", "label_smoothing=0.1: expected 0, since"),
        ("--rounds=0", "--rounds=0...see --help"),
        ("--rounds=-1", "--rounds=-1...see --help"),
        ("--rounds=2.5", "--rounds=2.5...see --help"),
        ("--rounds=many", "--rounds=many...see --help"),
        ("--json={tmp}/nowhere/a.json", "--json={tmp}/nowhere/a.json: its folder cannot be"),
        ("--json={tmp}/file/a.json", "--json={tmp}/file/a.json: its folder cannot", file("file")),
        ("--json={tmp}/folder", "--json={tmp}/folder: ", file("folder", None)),
        ("--json=", "--json=: "),
        (
            "--json=gs://bucket/a.json",
            f"--json=gs://bucket/a.json{ADDRESS}",
        ),
        (
            "--profile=gs://bucket/trace",
            f"--profile=gs://bucket/trace{ADDRESS}",
        ),
        ("--profile={tmp}/file", "--profile={tmp}/file: cannot be written", file("file")),
        ("--profile={tmp}/file/p", "--profile={tmp}/file/p: cannot be written", file("file")),
        ("--profile=", "--profile=: expected a folder"),
        ("--profile={tmp}/new --config.dataset=mnist --data_dir={tmp}/data", "is not a folder"),
        ("baseline", "baseline: unexpected; every option is a flag"),
    ],
}


@pytest.fixture(scope="module")
def finished_run(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    done = server.run("main", *BASELINE, f"--workdir={folder}", draw=True, tidy=False)
    assert done.status == 0, done.err
    return folder


def complete(program, given):
    """Returns environment and arguments of a case, with what it does not say."""
    words = given if isinstance(given, list) else shlex.split(given)
    environment = dict(word.split("=", 1) for word in words if re.match("[A-Z_]+=", word))
    arguments = [word for word in words if not re.match("[A-Z_]+=", word)]
    if program != "report" and not any(re.match("--config(=|$)", word) for word in arguments):
        named = {word.split("=")[0] for word in arguments}
        arguments = [w for w in BASELINE if w.split("=")[0] not in named] + arguments
    if program == "main" and not any(word.startswith("--workdir") for word in arguments):
        arguments = ["--workdir={tmp}/run", *arguments]
    return environment, arguments


@pytest.mark.parametrize(
    ("program", "given", "said", "make"),
    [
        pytest.param(program, given, said, *make or [None], id=f"{program} {str(given)[:60]}")
        for program, cases in BAD_INPUT.items()
        for given, said, *make in cases
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(
    server, finished_run, tmp_path, capsys, program, given, said, make
):
    """In this process, or in one of its own where the line comes after JAX has started."""
    held = None
    if make:
        wants_run = len(inspect.signature(make).parameters) == 2
        held = make(tmp_path, finished_run) if wants_run else make(tmp_path)
    before = snapshot(tmp_path)
    environment, arguments = complete(program, given)
    fill = lambda word: word.replace("{tmp}", str(tmp_path))  # noqa: E731
    environment = {"MNIST_JAX_CACHE_DIR": "{tmp}/cache"} | environment
    environment = {name: fill(value) for name, value in environment.items()}
    asked = (program, *map(fill, arguments))
    done = in_process.run(capsys, *asked, cwd=tmp_path, **environment)
    if done is None:
        done = server.run(*asked, cwd=tmp_path, limit=100, draw=True, **environment)
    line = done.err
    assert (done.status, line.count("\n")) == (2, 1), line
    assert line.startswith("error: ")
    place = 0
    for part in fill(said).split("..."):
        assert part in line[place:], (part, line)
        place = line.index(part, place) + len(part)
    assert done.out == ""
    assert snapshot(tmp_path) == before
    if held:
        held.close()


@pytest.mark.parametrize(
    ("name", "mode", "said"),
    [
        (".", 0o000, "cannot be written ({run} is not yours to write)"),
        (".", 0o200, "cannot be written ({run} is not yours to write)"),
        (".", 0o600, "cannot be written ({run} is not yours to write)"),
        (".", 0o555, "cannot be written ({run} is not yours to write)"),
        ("config.json", 0o000, "something else than a run (config.json: Permission denied)"),
        ("config.json", 0o444, "cannot be written ({run}/config.json is not yours to write)"),
        ("metrics.jsonl", 0o444, "cannot be written ({run}/metrics.jsonl is not yours to write)"),
        ("results.csv", 0o000, "cannot be written ({run}/results.csv is not yours to write)"),
        (".lock", 0o444, "cannot be written ({run}/.lock is not yours to write)"),
        ("checkpoints", 0o000, "cannot be written ({run}/checkpoints is not yours to write)"),
        ("checkpoints", 0o666, "cannot be written ({run}/checkpoints is not yours to write)"),
        ("checkpoints/trials_0_to_0", 0o555, "trials_0_to_0 is not yours to write"),
    ],
)
@pytest.mark.parametrize("more", [[], pytest.param(["--overwrite"], marks=pytest.mark.slow)])
def test_files_of_somebody_else_are_one_line(
    server, finished_run, tmp_path, name, mode, said, more
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "summary.json").unlink()
    before = snapshot(tmp_path)
    (run / name).chmod(mode)
    done = server.run("main", *BASELINE, f"--workdir={run}", *more, cwd=tmp_path, root=False)
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"error: --workdir={run} ")
    assert said.format(run=run) in done.err
    assert done.err.count("\n") == 1
    (run / name).chmod(0o777)
    assert snapshot(tmp_path) == before


def test_a_finished_run_of_somebody_else_is_shown(server, finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    before = snapshot(tmp_path)
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)
    where = {"cwd": tmp_path, "draw": True, "root": False}
    done = server.run("main", *BASELINE, f"--workdir={run}", **where)
    assert done.status == 0
    assert "nothing is trained again" in done.out
    assert "best-epoch test accuracy" in done.out
    assert "report.html" not in done.out
    assert done.err.startswith(f"warning: {run}/figures/")
    assert "cannot be written (Permission denied)" in done.err
    assert done.err.count("\n") == 1
    assert snapshot(tmp_path) == before
    done = server.run("main", *BASELINE, f"--workdir={run}", "--overwrite", **where)
    assert f"error: --workdir={run} cannot be written ({run} is not yours to write)" in done.err
    assert snapshot(tmp_path) == before
