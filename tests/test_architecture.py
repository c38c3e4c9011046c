"""The rooms and who may import whom, read from the source."""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from trainables.node import source_digest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("analysis", "search_spaces", "study", "trainables")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))

DESCRIPTION = {
    f"trainables.{name}"
    for name in ("trial", "catalogue", "setting", "relevance", "arms", "metrics", "extensions")
}
"""What a trial is, without PyTorch."""
MAY_IMPORT = {
    "trainables": {"trainables"},
    "search_spaces": {"search_spaces", *DESCRIPTION},
    "study": {"study", "search_spaces", "trainables"},
    "analysis": {
        "analysis",
        "search_spaces",
        *DESCRIPTION,
        "trainables.redact",
        "trainables.machine",
        "study.ledger",
    },
}
MAY_IMPORT_BESIDES = {"study/run.py": {"analysis"}}
"""run.py puts everything together."""

ORDER = {
    "trainables": (
        *("setting", "catalogue", "relevance", "arms", "metrics", "extensions", "values", "trial", "redact"),
        *("command_line", "randomness", "machine", "bf16", "allocation", "usage", "fast", "storage"),
        *("datasets", "methods", "losses", "measures"),
        *("linear_probe", "kept", "data", "augment", "batches", "own_metric", "models", "backbones", "tried"),
        *(
            "weights",
            "evaluator",
            "passes",
            "evaluate",
            "remeasure",
            "step",
            "graph",
            "train",
            "node",
            "probe",
        ),
        *("tune", "preload"),
        148,
    ),
    "study": (
        *("ledger", "recording", "transfer", "cluster", "search", "planning", "cli", "session"),
        *("search_session", "clean", "measure", "export", "merge", "run", "__main__"),
        40,
    ),
    "analysis": (
        "trials",
        "stats",
        "render",
        "plots",
        "sections",
        "cli",
        "tables",
        "embeddings",
        "report",
        "live",
        45,
    ),
}
"""The rooms within each top-level one, from the ground up, and how many of them may import each other."""
ORDER = {top: (rooms[:-1], rooms[-1]) for top, rooms in ORDER.items()}
LONGEST = 320
"""Lines of a module."""

TRAINING = {path for path in SOURCES if ROOT / "trainables" in path.parents}
HEAVY = {
    "torch": TRAINING - {ROOT / "trainables/trial.py"},
    "torchvision": TRAINING - {ROOT / "trainables/trial.py"},
    "ray": {
        *(path for path in SOURCES if path.parent.name in ("cluster", "search")),
        ROOT / "trainables/tune.py",
    },
    "optuna": {
        *(ROOT / f"study/{name}.py" for name in ("search/optuna_queue", "ledger/optuna_study")),
        ROOT / "analysis/stats/importances.py",
    },
    "mlflow": {
        ROOT / f"study/ledger/{name}.py" for name in ("artifacts", "copies", "ledger", "store", "trial_runs")
    },
    **{
        library: {path for path in SOURCES if ROOT / "analysis" in path.parents}
        | {ROOT / "trainables/datasets/sources.py"}  # where scikit-learn has the digits
        for library in ("scipy", "sklearn")
    },
}
"""Who may import a heavy library."""


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of all modules that a file imports, wherever it does."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[path.relative_to(ROOT).parts[0]] | MAY_IMPORT_BESIDES.get(
        str(path.relative_to(ROOT)), set()
    )
    ours = {name for name in imports(path) if within(name, set(ROOMS))}
    # `from study import ledger` names the room and then the module: the module decides.
    ours -= {name for name in ours if any(other.startswith(f"{name}.") for other in ours)}
    assert [name for name in sorted(ours) if not within(name, allowed)] == []


def room_of(name: str, top: str) -> str | None:
    """The direct child of a top-level room that a module belongs to: `cluster` of `study.cluster.nodes`."""
    parts = name.split(".")
    return parts[1] if parts[0] == top and len(parts) > 1 else None


def arrows(top: str) -> set[tuple[str, str]]:
    """Which rooms within a top-level one import which others; a subpackage is one room."""
    found = set()
    for path in (path for path in SOURCES if path.relative_to(ROOT).parts[0] == top):
        here = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts), top)
        for name in imports(path):
            there = room_of(name, top)
            if (
                there
                and there != here
                and ((ROOT / top / there).is_dir() or (ROOT / top / f"{there}.py").exists())
            ):
                found.add((str(here), there))
    return found


@pytest.mark.parametrize("top", ORDER)
def test_within_a_room_imports_run_one_way(top: str) -> None:
    order, most = ORDER[top]
    rooms = {
        path.relative_to(ROOT / top).parts[0].removesuffix(".py")
        for path in SOURCES
        if ROOT / top in path.parents
    }
    assert rooms - {"__init__"} == set(order), "every room has its place in ORDER"
    found = arrows(top)
    assert [pair for pair in sorted(found) if order.index(pair[1]) >= order.index(pair[0])] == []
    assert len(found) <= most, sorted(found)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST


def test_the_digest_of_a_nodes_code_covers_all_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    straight = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self) or straight(self))
    source_digest.__wrapped__()
    assert {path for path in SOURCES if ROOT / "trainables" in path.parents} <= set(read)


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_stay_in_their_place(library: str) -> None:
    importing = {path for path in SOURCES if any(within(name, {library}) for name in imports(path))}
    assert importing <= HEAVY[library]
    assert importing, f"nobody imports {library}: this test reads the wrong files"


@pytest.mark.parametrize(
    "statement",
    [
        "from study.run import main; main(['--space', 'quickstart', '--plan'])",
        "from study.run import main; main(['--list-spaces'])",
        "from study.run import main; main(['--space', 'search', '--plan'])",
        "import analysis.report, analysis.tables, analysis.embeddings, analysis.sections.search",
        "import trainables.data, trainables.storage.bundles, study.recording.writer, study.cluster.nodes",
    ],
)
def test_neither_torch_nor_ray_without_training(statement: str, tmp_path: Path) -> None:
    loaded = f"import sys; {statement}; print('loaded', sorted({{'torch', 'ray'}} & sys.modules.keys()))"
    run = subprocess.run(
        [sys.executable, "-c", loaded], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "loaded []"


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'ray', 'mlflow', 'pandas', 'sklearn', 'matplotlib', 'pyarrow'}"
    code = (
        "import atexit, sys; from study.run import main;"
        f"atexit.register(lambda: print('loaded', sorted({heavy} & sys.modules.keys()))); main(['--help'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--space NAME" in run.stdout
    assert run.stdout.splitlines()[-1] == "loaded []"
