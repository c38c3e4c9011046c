"""The pages in docs/: links, commands, messages, and what is typed on the pages for newcomers, as typed."""

import ast
import contextlib
import functools
import io
import re
import shlex
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import Made, fill, frame, results

from analysis.sections.headline import headline
from analysis.sections.rules import rule_sentences
from analysis.stats.results import Results
from analysis.stats.sequential import nominal_level
from analysis.trials import load, write
from search_spaces import select, selection_from
from search_spaces.seeds import SeedPlan
from study.cli import options
from study.ledger.ledger import DEFAULT_EXPERIMENT
from study.run import main
from trainables import bf16
from trainables.redact import plain

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
READERS = {name: (ROOT / name).read_text() for name in ("README.md", "CONTRIBUTING.md")}


FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(text: str, language: str = "") -> list[str]:
    """The fenced blocks of a page that say they are of this language."""
    return [block for said, block in FENCED.findall(text) if said == language]


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


def test_the_notebook_runs_as_typed(quickstart: Path, own_files: None) -> None:
    from study.ledger.ledger import Ledger

    store = f"sqlite:///{quickstart}/runs/mlflow.db"
    ledger = Ledger(uri=store, experiment=DEFAULT_EXPERIMENT, artifact_root=quickstart / "runs/mlartifacts")
    frame = load(select("quickstart"), ledger.trials())
    write(frame, quickstart / "reports/quickstart/trials.parquet")
    (quickstart / "my_study.py").write_text(blocks(PAGES["docs/tutorial.md"], "python")[1])
    shown, names = [], {}
    for block in blocks(PAGES["docs/notebook.md"], "python"):
        *body, last = ast.parse(block).body
        exec(compile(ast.Module(body, []), "notebook.md", "exec"), names)  # noqa: S102
        if isinstance(last, ast.Expr):  # what a notebook shows
            shown.append(eval(compile(ast.Expression(last.value), "notebook.md", "eval"), names))  # noqa: S307
        else:
            exec(compile(ast.Module([last], []), "notebook.md", "exec"), names)  # noqa: S102
    by_seed, summary, status, mine, compared, seeds, _, gain = shown
    assert by_seed.shape == (3, 4)
    accuracy = frame.set_index(["arm_label", "seed"])["test_acc"]
    assert by_seed.loc[1, "siamese-0.01"] == accuracy["siamese-0.01", 1]
    assert list(summary["mean"]) == pytest.approx([accuracy[arm].mean() for arm in summary["arm_label"]])
    assert status.to_dict() == {"FINISHED": 9}
    assert mine.to_dict() == {"MISSING": 15}
    assert len(compared) == 5
    assert compared["delta"].iloc[0] == pytest.approx((accuracy["siamese-0"] - accuracy["ce"]).mean())
    assert seeds >= 3
    assert (quickstart / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert gain.shape == (10, 2)


# The tutorial

TUTORIAL = PAGES["docs/tutorial.md"]
COUNTS = {
    "quickstart": {
        "ce": [399, 403, 406],
        "siamese-0": [419, 417, 417],
        "siamese-0.001": [422, 420, 416],
        "siamese-0.01": [412, 416, 417],
    },
    "my_study.py": {
        "ce": [412, 413, 416, 411, 413, 409, 416, 419, 417, 417, 413, 412],
        "siamese-0": [421, 425, 415, 420, 416, 423, 419, 421, 423, 422, 419, 428],
        "alignment-0.1": [425, 421, 421, 420, 423, 419, 422, 422, 419, 424, 421, 426],
        "alignment-1": [428, 419, 425, 417, 422, 424, 423, 421, 422, 422, 422, 423],
        "siamese-0.001": [423, 418, 416, 418, 423, 423, 417, 420, 422, 426, 418, 424],
    },
}
"""What was measured when the tutorial was typed: test images of 450 that were right, by arm and seed."""
TIME = re.compile(r": \d+ min \d+ s to .*")


@pytest.fixture
def my_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_files: None) -> Path:
    """The current folder, with the file of the tutorial."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_study.py").write_text(blocks(TUTORIAL, "python")[1])
    return tmp_path


def sessions() -> list[tuple[list[str], list[list[str]]]]:
    """What the tutorial types after `$ study run`, and the parts of the output that it shows, as lines."""
    found = []
    for block in blocks(TUTORIAL):
        first, *lines = block.splitlines()
        if first.startswith("$ study run "):
            parts = "\n".join(lines).split("…")
            found.append((shlex.split(first)[3:], [part.strip("\n").splitlines() for part in parts]))
    return found


def test_the_plans_of_the_tutorial(
    my_study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "units", lambda: "")  # with AMX there is a line more
    exec(compile(blocks(TUTORIAL, "python")[0], "make_digits.py", "exec"), {})  # noqa: S102
    assert len(list((my_study / "data/my_digits").glob("*/*/*.png"))) == 1797
    # What --probe measures is the machine's.
    plans = [(typed, parts) for typed, parts in sessions() if typed[-1] == "--plan"]
    assert len(plans) == 3
    for typed, parts in plans:
        assert main(typed) == 0
        printed = capsys.readouterr().out.splitlines()
        for part in filter(None, parts):
            expected = [TIME.sub("", line) for line in part]  # nothing is measured here: no forecast
            assert "\n".join(expected) in "\n".join(printed)
    assert sorted(path.name for path in my_study.iterdir()) == ["data", "my_study.py"]  # creates nothing


def test_the_verdicts_of_the_tutorial(my_study: Path) -> None:
    """What it quotes of two studies follows from what was measured."""
    for typed, parts in sessions():
        if "--plan" in typed:
            continue
        args = options.parser().parse_args(typed)
        selection = selection_from(args)
        counts = COUNTS["my_study.py" if args.space == "my_study.does_it_help" else "quickstart"]
        plan = replace(selection.seeds or SeedPlan(low=3, high=3), margin=args.margin, date="2026-11-25")
        trials = frame({trial: counts[trial.arm][trial.seed] / 450 for trial in selection.trials})
        results_of = Results(trials.assign(seed_plan=plan.to_json()))
        answers = headline(results_of).answers
        quoted = [line.removeprefix("verdict:").strip() for part in parts for line in part]
        quoted = [line for line in quoted if line.endswith(".")]
        assert quoted[: len(answers)] == [*answers]
        assert {*quoted} <= {*answers, *rule_sentences(results_of.compared)}


def test_the_tutorial_repeats_the_means() -> None:
    for counts in COUNTS["quickstart"].values():
        values = np.array(counts) / 4.5
        assert f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" in TUTORIAL
    assert f"{nominal_level(0.05, 3, 12):.3f}" in TUTORIAL


# What all pages have in common


@functools.cache
def said() -> str:
    """All texts in the program's code, what is filled in left out: messages are made of these."""
    found = []
    for room in ("analysis", "search_spaces", "study", "trainables"):
        for path in (ROOT / room).rglob("*.py"):
            nodes = ast.walk(ast.parse(path.read_text()))
            found += [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return " ".join(" ".join(found).split())


OTHERS_SAY = ("study: command not found", "No module named", "requires a different Python")
OTHERS_SAY += ("The actor is dead", "Detected out-of-date database schema", "Address already in use")
"""Beginnings of what the page quotes of other programs: of the shell, Python, pip, Ray, MLflow."""


def test_messages_that_are_explained_are_messages_that_are_printed() -> None:
    rows = re.findall(r"^\| (.+?) \| .+ \| .* \|$", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    quoted = [code for row in rows for code in re.findall(r"`([^`]+)`", row)]
    names = ("bf16", "fp32", "mlflow ui", "runs/")
    parts = [part.strip(" ;:") for code in quoted if code not in names for part in code.split("…")]
    parts = [part for part in parts if part and not part.startswith(OTHERS_SAY)]
    assert len(parts) > 50
    unknown = [part for part in parts if plain(part) not in said()]
    assert unknown == []


ANCHOR = re.compile(r"[^\w\- ]")


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M)
    return {ANCHOR.sub("", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, *READERS])
def test_links_lead_somewhere(name: str) -> None:
    text = {**PAGES, **READERS}[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text()), target


COMMANDS = {f"study/{name}.py": name for name in ("run", "measure", "clean", "export", "merge")}
COMMANDS |= {f"analysis/{name}.py": name for name in ("report", "tables", "embeddings")}


def typed_commands(text: str) -> list[list[str]]:
    """The commands of this project in the fenced blocks of a page, `COMMAND`, then its options."""
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.match(r"(?:\$ )?(?:python ((?:study|analysis)/\w+\.py)|study (\w+))(?: |$)(.*)", line)
            if match:
                words = shlex.split(match[3], comments=True)
                found.append([COMMANDS[match[1]] if match[1] else match[2], *words])
    return found


def test_every_page_of_docs_is_on_the_start_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", PAGES["docs/README.md"]))
    assert linked == {Path(name).name for name in PAGES} - {"README.md"}


@pytest.mark.parametrize("name", [name for name in PAGES if typed_commands(PAGES[name])])
def test_commands_can_be_typed(name: str, my_study: Path) -> None:
    elsewhere = set(re.findall(r"^# (my_\w+\.py)$", PAGES["docs/extend.md"], re.MULTILINE))
    known = set(said().split())
    for command, *words in typed_commands(PAGES[name]):
        assert command in COMMANDS.values()
        assert {word for word in words if word.startswith("--")} <= known, words
        files = {part.partition(":")[0] for word in words for part in word.split(",")}
        if command == "run" and not files & elsewhere:  # those have tests of their own
            options.parser().parse_args(words)
