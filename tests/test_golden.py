"""The numbers that recipes gave when they were recorded.

Another processor or version of XLA changes last digits, which two epochs let grow to about 1e-5.
If a value is off by more, the same recipe trains otherwise than before: find out why, and say in
the changelog that it does, before new values are put in its place.
"""

import json

import pytest
from server import ROOT

MLP = {
    "train_loss": [1.9992701, 1.9633184, 1.2099614, 1.1964616],
    "test_objective": [1.5558394, 1.5467916, 1.6970356, 0.9210561],
}
EVERYTHING = {
    "train_loss": [1.5706939, 1.4807417, 0.5311192, 0.5054352],
    "validation_loss": [0.5938697, 0.5668054, 0.5507308, 0.5410613],
    "validation_objective": [1.1426309, 1.1293799, 0.9971804, 0.9974799],
}
CNN = {
    "train_loss": [2.2403081, 2.0857693, 2.0328034, 1.6060515],
    "test_loss": [2.1531823, 1.8127969, 1.7353095, 1.3856606],
}
RECIPES = [
    ("baseline.py", MLP),
    (
        "beyond_98_47.py --config.hidden_sizes=32 --config.nesterov=True --config.schedule=cosine"
        " --config.warmup_steps=10 --config.weight_decay=0.1 --config.l2=0.01"
        " --config.num_validation=200 --config.protocol=validation",
        EVERYTHING,
    ),
    pytest.param(
        "cnn.py --config.conv_features=4,8 --config.hidden_sizes=16", CNN, marks=pytest.mark.slow
    ),
]


@pytest.mark.parametrize(("options", "golden"), RECIPES, ids=["mlp", "everything", "cnn"])
@pytest.mark.parametrize("optimize", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recipes_train_as_they_were_recorded(optimize, options, golden, server, tmp_path):
    size = ["--config.dataset=digits", "--config.num_epochs=2", "--config.num_seeds=2"]
    config, *options = options.split()
    config = f"--config={ROOT / 'configs' / config}"
    asked = (config, *size, *options, f"--workdir={tmp_path}")
    process = server.run("main", *asked, optimize=optimize)
    assert process.status == 0, process.err
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = {name: [row[name] for row in rows] for name in golden}
    assert found == {name: pytest.approx(values, rel=1e-4) for name, values in golden.items()}
