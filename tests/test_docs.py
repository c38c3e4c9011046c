"""The pages in docs/: links, commands, messages, and what is typed on the pages for newcomers, as typed."""

import ast
import contextlib
import functools
import io
import re
import shlex
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import Made, fill, results

from analysis.trials import load, write
from search_spaces import select
from study.clean import main as clean
from study.cli import options
from study.ledger.ledger import DEFAULT_EXPERIMENT
from study.run import main
from trainables.extensions.files import loaded
from trainables.redact import plain

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
READERS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}


def blocks(page: str, language: str = "") -> list[str]:
    """The fenced blocks of a page that say they are of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


# The notebook


@pytest.fixture
def quickstart(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the ledger and the frame that a quickstart leaves; numbers are made up."""
    (tmp_path / "runs").mkdir()
    database = tmp_path / "runs/mlflow.db"
    shutil.copy(empty_store, database)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.execute("update experiments set name = ? where name = 'test'", (DEFAULT_EXPERIMENT,))
        connection.commit()
    selection = select("quickstart")
    made = []
    for trial in selection.trials:
        random = np.random.default_rng(int(trial.key, 16))
        labels, logits = np.arange(50) % 10, random.normal(size=(50, 10)).astype("f2")
        predictions, history = io.BytesIO(), io.BytesIO()
        np.savez(predictions, labels=labels, logits=logits + 2 * np.eye(10, dtype="f2")[labels])
        rows = {"epoch": range(1, 4), "val/acc": random.random(3), "train/loss": random.random(3)}
        pd.DataFrame(rows).to_parquet(history)
        files = {"predictions.npz": predictions.getvalue(), "history.parquet": history.getvalue()}
        made.append(Made(config=trial, metrics=results(trial, gain=0.1), artifacts=files))
    fill(database, tmp_path / "runs/mlartifacts", made, DEFAULT_EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_notebook_runs_as_typed(quickstart: Path) -> None:
    from study.ledger.ledger import Ledger

    store = f"sqlite:///{quickstart}/runs/mlflow.db"
    ledger = Ledger(uri=store, experiment=DEFAULT_EXPERIMENT, artifact_root=quickstart / "runs/mlartifacts")
    frame = load(select("quickstart"), ledger.trials())
    write(frame, quickstart / "reports/quickstart/trials.parquet")
    shown, names = [], {}
    for block in blocks("docs/notebook.md", "python"):
        *body, last = ast.parse(block).body
        exec(compile(ast.Module(body, []), "notebook.md", "exec"), names)  # noqa: S102
        if isinstance(last, ast.Expr):  # what a notebook shows
            shown.append(eval(compile(ast.Expression(last.value), "notebook.md", "eval"), names))  # noqa: S307
        else:
            exec(compile(ast.Module([last], []), "notebook.md", "exec"), names)  # noqa: S102
    by_seed, summary, status, compared, seeds, _, gain = shown
    assert by_seed.shape == (3, 4)
    accuracy = frame.set_index(["arm_label", "seed"])["test_acc"]
    assert by_seed.loc[1, "siamese-0.01"] == accuracy["siamese-0.01", 1]
    assert list(summary["mean"]) == pytest.approx([accuracy[arm].mean() for arm in summary["arm_label"]])
    assert status.to_dict() == {"FINISHED": 9}
    assert len(compared) == 5
    assert compared["delta"].iloc[0] == pytest.approx((accuracy["siamese-0"] - accuracy["ce"]).mean())
    assert seeds >= 3
    assert (quickstart / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert gain.shape == (10, 2)
