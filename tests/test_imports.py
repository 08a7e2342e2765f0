"""The rooms of the package, and which of them may import which."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mnist_jax"
BELOW = {"__init__", "arrays", "disk", "layers", "run_files", "stats", "text"}
ROOMS = ["data", "config", "training", "runs", "report"]
"""In order: a room imports from those before it, and from what lies below them all."""
MAY_IMPORT = {room: {*BELOW, *ROOMS[: place + 1]} for place, room in enumerate(ROOMS)}
MAY_IMPORT |= {module: BELOW for module in BELOW}
MAY_IMPORT["benchmark"] = {*BELOW, *ROOMS[:-1], "benchmark"}
MAY_IMPORT["export"] = {*BELOW, *ROOMS[:-1], "export"}
MAY_IMPORT["main"] = MAY_IMPORT["predict"] = MAY_IMPORT["cli"] = {*BELOW, *ROOMS, "cli"}
MAY_IMPORT["api"] = {*BELOW, *ROOMS}
PROGRAMS = {"main", "predict"}
PROGRAMS |= {f"{room}.__main__" for room in ("data", "report", "export", "benchmark")}
"""They alone may import `cli`, the command line."""
LAZY = {("__init__", "config.keys"), ("__init__", "api")}
"""What the package hands out itself, once it is asked."""


def module_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path):
    """Returns the package's modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [x if x.removeprefix("mnist_jax.") in MODULES else node.module for x in inside]
        else:
            continue
        found |= {name for name in names if name.partition(".")[0] == "mnist_jax"}
    return {name.removeprefix("mnist_jax").removeprefix(".") or "__init__" for name in found}


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_no_room_imports_a_room_after_it():
    back = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in sorted(others)
        if (module, other) not in LAZY
        if not (other == "cli" and module in PROGRAMS)
        if other.split(".")[0] not in MAY_IMPORT[module.split(".")[0]]
    ]
    assert back == []


def test_no_modules_import_each_other_in_a_circle():
    waiting = {module: others - {module} for module, others in IMPORTS.items()}
    waiting["__init__"] = set()
    while free := {module for module, others in waiting.items() if not others & waiting.keys()}:
        waiting = {module: others for module, others in waiting.items() if module not in free}
    assert waiting == {}


def test_no_file_is_longer_than_one_reads_in_a_sitting():
    long = {module: path.read_text().count("\n") for module, path in MODULES.items()}
    assert {module: n for module, n in long.items() if n > 400} == {}
