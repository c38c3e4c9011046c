"""Studies that travel: exported, taken into another ledger, interrupted anywhere, damaged on the way."""

import hashlib
import io
import json
import re
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from synthetic import Made, config, fill, results

from analysis.trials import finished, load
from search_spaces import Selection
from study import export as export_command
from study import merge as merge_command
from study.ledger.copies import MERGING, Point, read_points
from study.ledger.kept_code import keep_code, kept_code, read_code
from study.ledger.ledger import Ledger
from study.ledger.records import TrialRecord
from study.ledger.seed_plans import read_seed_plans
from study.transfer.archive import Archive
from study.transfer.comparing import Verdict
from study.transfer.crate import Publication
from study.transfer.exporting import export
from study.transfer.members import ArchiveError
from study.transfer.merging import carry_out, plan_merge
from study.transfer.origins import LedgerOrigin, Origin
from study.transfer.verifying import damaged, judge, sample, train_again
from study.transfer.writing import ArchiveWriter
from trainables.storage.bundles import Bundle, TrialResult, write_bundle
from trainables.storage.checkpoints import Checkpoints
from trainables.storage.filesystem import Storage
from trainables.trial import TrialConfig

FILES = {
    "config.json": b"{}",
    "history.parquet": b"rows",
    "predictions.npz": b"images",
    "embeddings.npz": b"h",
}
DONE = [config(arm, seed) for seed in range(2) for arm in ("ce", "0.01")]
FAILED, HALF, PRUNED, WAITING = (config("0.1", seed) for seed in range(4))
PLAN = {"low": 2, "high": 2, "margin": None, "adopted": False, "date": "2026-01-02", "cells": ["c" * 16]}
PUBLICATION = Publication(
    title="A study", authors=("Ada L <https://orcid.org/0000-0001-2345-6789>", "B"), license="CC-BY-4.0"
)


class Place:
    """An output folder with a ledger and a storage."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        folder.mkdir()
        shutil.copy(empty_store, folder / "mlflow.db")
        self.folder, self.storage = folder, Storage(str(folder / "test"))
        self.ledger = Ledger(
            uri=f"sqlite:///{folder}/mlflow.db", experiment="test", artifact_root=folder / "mlartifacts"
        )
        with sqlite3.connect(folder / "mlflow.db") as database:
            where = (folder / "mlartifacts").as_uri()
            database.execute("update experiments set artifact_location = ? where name = 'test'", (where,))

    def has(self, *made: Made) -> "Place":
        fill(self.folder / "mlflow.db", self.folder / "mlartifacts", made)
        return self

    @property
    def origin(self) -> LedgerOrigin:
        return LedgerOrigin(self.ledger, self.storage, title="there")

    @property
    def content(self) -> dict[str, Any]:
        """All that counts of it, by trial; ids and places differ between ledgers."""
        origin = self.origin
        found: dict[str, Any] = {}
        for key, record in origin.records.items():
            tags = {name: text for name, text in record.tags.items() if not name.startswith("merged.")}
            with origin.files(record) as files:
                kept = {name: path.read_bytes() for name, path in files.items()}
            status = "KILLED" if record.status == "RUNNING" else record.status
            about = (status, record.params, tags, record.metrics, record.name, record.started, record.changed)
            saved = {name: origin.stored(f"checkpoints/{key}/{name}") for name in origin.states(key)}
            found[key] = (about, origin.points(record), kept, saved)
        return found

    def exported(self, name: str = "study.zip") -> Path:
        file = self.folder.parent / name
        export(self.origin, file, PUBLICATION)
        return file

    def take(self, origin: Origin) -> tuple[dict[str, int], list[str]]:
        """Merge; how many trials had each verdict, and what was left."""
        merge, outcome = carry_out(origin, self.ledger, self.storage)
        counts = {verdict.name: len(merge.of(verdict)) for verdict in Verdict if merge.of(verdict)}
        return counts, outcome.left


@pytest.fixture
def place(tmp_path: Path, empty_store: Path) -> Callable[[str], Place]:
    return lambda name: Place(tmp_path / name, empty_store)


def made(trial: TrialConfig, **about: Any) -> Made:
    return Made(**{"config": trial, "metrics": results(trial), "artifacts": FILES, **about})


@pytest.fixture
def there(place: Callable[[str], Place]) -> Place:
    """Finished, failed, pruned and half-done trials, one whose result waits, and a space's run."""
    there = place("there").has(
        *map(made, DONE),
        Made(
            config=FAILED,
            status="FAILED",
            tags={"failure": "NonFiniteLoss"},
            artifacts={"traceback.txt": b"!"},
        ),
        Made(config=HALF, status="RUNNING"),
        Made(config=PRUNED, status="KILLED", tags={"pruned.epoch": "3"}),
    )
    rows = [{"epoch": e, "timestamp": 10 * e, "train/loss": 1.0 / e, "val/acc": float("nan")} for e in (1, 2)]
    there.ledger.log_epochs(there.ledger.trials()[HALF.key].run_id, rows)
    Checkpoints(there.storage, HALF.key).save(2, b"a state")
    result = TrialResult(metrics={"test_acc": 0.5}, history=tuple(rows), artifacts={"history.parquet": b""})
    write_bundle(there.storage, Bundle(config=WAITING, result=result, tags={}))
    there.ledger.log_study("a+b", {"report.html": b"<p>", "own.py": b"def"})
    keep_code(there.ledger, {"code-0123456789ab.patch": b"diff", "other.exe": b"MZ"})
    there.ledger.tag_study("a+b", {"seed_plan.000": json.dumps(PLAN)})
    return there


def test_a_study_travels_whole(there: Place, place: Callable[[str], Place]) -> None:
    here = place("here")
    archive = Archive(there.exported())
    assert here.take(archive) == ({"NEW": 7}, [])
    assert here.content == there.content
    assert here.storage.read(f"results/{WAITING.key}.zip") == there.storage.read(f"results/{WAITING.key}.zip")
    assert read_seed_plans(here.ledger, "a+b") == read_seed_plans(there.ledger, "a+b") != {}
    assert kept_code(here.ledger) == ["code-0123456789ab.patch"]
    assert read_code(here.ledger, "code-0123456789ab.patch") == b"diff"
    record = here.ledger.trials()[DONE[0].key]
    assert record.tags["merged.run"] == there.ledger.trials()[DONE[0].key].run_id
    before = here.folder.joinpath("mlflow.db").read_bytes()
    assert here.take(archive) == ({"KNOWN": 7}, [])
    assert here.take(there.origin) == ({"KNOWN": 7}, [])
    assert here.folder.joinpath("mlflow.db").read_bytes() == before


def test_a_lean_archive_is_enough_for_tables(place: Callable[[str], Place], tmp_path: Path) -> None:
    """Of predictions the classes, of views the names of classes, nothing of features and weights."""
    arrays = {"labels": np.array([0, 9, 3]), "predicted": np.array([0, 3, 3]), "logits": np.zeros((3, 10))}
    names = {"classes": np.array([b"cat", b"dog"]), "original": np.zeros((8, 3, 48, 48), np.uint8)}
    files = {
        "config.json": b"{}",
        "predictions.npz": npz(arrays),
        "views.npz": npz(names),
        "embeddings.npz": npz({"test_h": np.zeros((9, 9))}),
        "weights.safetensors": b"weights",
    }
    tags = {"artifacts": " ".join(sorted(files))}
    there = place("there").has(
        *(made(trial, artifacts=files, tags=tags) for trial in DONE), made(PRUNED, status="KILLED")
    )
    archives = [tmp_path / "one/study.zip", tmp_path / "two/study.zip"]
    for file in archives:
        file.parent.mkdir()
        export(there.origin, file, PUBLICATION, lean=True)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert archives[0].stat().st_size < there.exported().stat().st_size / 2
    assert b"of their predictions the classes alone" in zipfile.ZipFile(archives[0]).read("README.md")
    here = place("here")
    counts, left = here.take(Archive(archives[0]))
    assert (sum(counts.values()), left) == (len(DONE) + 1, [])
    record = here.ledger.trials()[DONE[0].key]
    assert record.kept == {"config.json"}
    assert "left_out" not in here.ledger.trials()[PRUNED.key].tags  # it may be resumed, and then keeps all
    assert record.tags["left_out"] == "embeddings.npz predictions.npz views.npz weights.safetensors"
    kept = {
        name: here.ledger.artifacts.path(record.run_id, name) for name in ("predictions.npz", "views.npz")
    }
    predictions = np.load(kept["predictions.npz"])
    assert {key: predictions[key].tolist() for key in predictions} == {
        "labels": [0, 9, 3],
        "predicted": [0, 3, 3],
    }
    assert predictions["labels"].dtype == np.uint8
    assert np.load(kept["views.npz"])["classes"].tolist() == [b"cat", b"dog"]
    assert sorted(here.ledger.artifacts.names(record.run_id)) == ["config.json", *kept]
    ended = finished(load(Selection(space="a", trials=tuple(DONE), steps=()), here.ledger.trials()))
    assert set(ended["left_out"]) == {record.tags["left_out"]}
    # Again, and from a whole archive: nothing is lost by it, and nothing trained again.
    assert here.take(Archive(archives[1]))[0] == {"KNOWN": len(DONE) + 1}
    assert here.take(there.origin)[0] == {"KNOWN": len(DONE) + 1}
    broken = place("damaged").has(made(DONE[0], artifacts={**files, "predictions.npz": b"PK"}, tags=tags))
    _, unread = export(broken.origin, tmp_path / "damaged.zip", PUBLICATION, lean=True)
    assert len(unread) == 1
    assert "predictions.npz" in unread[0]


def test_a_lean_archive_has_no_saved_states(there: Place, tmp_path: Path) -> None:
    """They are larger than all the rest; a trial that is half done starts anew. Nor paths of a machine."""
    _, unread = export(there.origin, tmp_path / "lean.zip", PUBLICATION, lean=True)
    assert unread[-1:] == [f"results/{WAITING.key}.zip: waits to be logged by a study"]
    assert not [name for name in zipfile.ZipFile(tmp_path / "lean.zip").namelist() if "checkpoints" in name]
    names = zipfile.ZipFile(there.exported()).namelist()
    assert [name for name in names if "checkpoints" in name]
    assert f"trials/{FAILED.key}/traceback.txt" in names
    assert f"trials/{FAILED.key}/traceback.txt" not in zipfile.ZipFile(tmp_path / "lean.zip").namelist()


def npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_equal_studies_give_equal_archives(there: Place, tmp_path: Path) -> None:
    first, second = there.exported("1.zip"), there.exported("2.zip")
    names = [set(zipfile.ZipFile(file).namelist()) for file in (first, second)]
    assert names[0] == names[1]
    differing = {
        name for name in names[0] if zipfile.ZipFile(first).read(name) != zipfile.ZipFile(second).read(name)
    }
    assert differing == {"README.md", "SHA256SUMS", "ro-crate-metadata.json"}  # which name the file
    assert first.read_bytes() == (shutil.move(there.exported("1.zip"), tmp_path / "x.zip")).read_bytes()


def test_what_is_further_wins_and_tables_are_those_of_one_study(
    there: Place, place: Callable[[str], Place]
) -> None:
    here = place("here").has(
        made(DONE[0]),
        Made(config=DONE[1], status="KILLED"),
        Made(config=DONE[2], status="FAILED", tags={"failure": "x"}),
        Made(config=HALF, status="KILLED"),
        made(FAILED),
    )
    Checkpoints(here.storage, HALF.key).save(1, b"an earlier state")
    counts, left = here.take(Archive(there.exported()))
    assert counts == {"NEW": 2, "FURTHER": 2, "STATE": 1, "KNOWN": 2}
    assert left == []
    assert max(here.origin.states(HALF.key).values()) == 2
    records = here.ledger.trials()
    assert {records[trial.key].status for trial in (*DONE, FAILED)} == {"FINISHED"}
    runs = here.ledger.client.search_runs([here.ledger.experiment_id], "tags.kind = 'trial'")
    assert len(runs) == len({run.data.tags["trial.key"] for run in runs}) == 7

    everything = place("everything").has(*map(made, (*DONE, FAILED)))
    selection = Selection(space="test", trials=(*DONE, FAILED), steps=("a test",))

    def table(ledger: Ledger) -> pd.DataFrame:
        frame = load(selection, ledger.trials())
        return frame.drop(columns=["run_id", "changed"], errors="ignore")

    assert_frame_equal(table(here.ledger), table(everything.ledger))


def test_contradictions_are_listed_and_left(there: Place, place: Callable[[str], Place]) -> None:
    first, second, third, fourth = DONE
    here = place("here").has(
        made(first, metrics={**results(first), "test_acc": 0.1}, tags={"device": "another"}),
        made(second, tags={"data.sha256": "e" * 64}),
        made(
            third,
            metrics={**results(third), "train_seconds": 1.0, "test_acc": results(third)["test_acc"] + 1e-8},
        ),
        made(fourth, metrics={name: value for name, value in results(fourth).items() if name != "test_ce"}),
    )
    before = here.content
    merge, outcome = carry_out(there.origin, here.ledger, here.storage)
    reasons = {item.record.key: item.reason for item in merge.of(Verdict.CONFLICT)}
    accuracy = results(first)["test_acc"]
    assert reasons == {
        first.key: f"test_acc is {accuracy:.6g} there, 0.1 here (device: cpu test there, another here)",
        second.key: "trained on other data: SHA-256 dddddddddddd there, eeeeeeeeeeee here",
    }
    assert outcome.left == []
    after = here.content
    assert {key: after[key] for key in (first.key, second.key, third.key)} == {
        key: before[key] for key in (first.key, second.key, third.key)
    }
    assert here.ledger.trials()[fourth.key].metrics["test_ce"] == results(fourth)["test_ce"]


def test_trials_of_another_version_are_left(
    there: Place, place: Callable[[str], Place], tmp_path: Path
) -> None:
    with sqlite3.connect(there.folder / "mlflow.db") as database:
        run_id = there.ledger.trials()[DONE[0].key].run_id
        database.execute("update params set value = '7' where key = 'epochs' and run_uuid = ?", (run_id,))
    merge = plan_merge(there.origin, place("here").ledger, Storage(str(tmp_path)))
    (item,) = merge.of(Verdict.CONFLICT)
    assert item.reason.startswith("not a trial of this version: its fields have the key ")


def crash_points(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Lets the n-th call that writes raise, for n = 1, 2, …; yields whether one has."""
    writing = (
        *("create_run", "log_batch", "log_artifact", "set_terminated", "set_tag", "delete_tag", "delete_run"),
        "update_run",
    )
    straight = {name: getattr(ledger.client, name) for name in writing}
    for fatal in range(1, 1000):
        calls = [0]

        def counted(
            name: str, *arguments: Any, calls: list[int] = calls, fatal: int = fatal, **named: Any
        ) -> Any:
            calls[0] += 1
            if calls[0] == fatal:
                raise KeyboardInterrupt
            return straight[name](*arguments, **named)

        for name in writing:
            monkeypatch.setattr(
                ledger.client, name, lambda *a, name=name, counted=counted, **k: counted(name, *a, **k)
            )
        yield lambda calls=calls, fatal=fatal: calls[0] >= fatal
        if calls[0] < fatal:
            return


def test_ended_at_any_write_a_merge_goes_on(
    there: Place, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that is half-done here, and every moment at which the process that replaces it could end."""
    other = place("other").has(made(DONE[0], metrics={"test_acc": 0.5}))
    store = place("here").has(Made(config=DONE[0], status="KILLED"))
    blank, whole = (store.folder / "mlflow.db").read_bytes(), other.content
    moments = 0
    for was_fatal in crash_points(store.ledger, monkeypatch):
        (store.folder / "mlflow.db").write_bytes(blank)
        try:
            store.take(other.origin)
        except KeyboardInterrupt:
            moments += 1
            if any(record.status == "FINISHED" for record in store.ledger.trials().values()):
                assert store.content == whole
            store.take(other.origin)
        assert was_fatal() or moments
        assert store.content == whole
        runs = store.ledger.client.search_runs([store.ledger.experiment_id])
        assert [run.data.tags["kind"] for run in runs] == ["trial"]
    assert moments > 10


def test_an_ended_export_leaves_the_archive_before(there: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = there.exported()
    before, straight, count = file.read_bytes(), ArchiveWriter.add, [0]

    def add(self: ArchiveWriter, name: str, content: bytes) -> None:
        count[0] += 1
        if count[0] == 5:
            raise KeyboardInterrupt
        straight(self, name, content)

    monkeypatch.setattr(ArchiveWriter, "add", add)
    with pytest.raises(KeyboardInterrupt):
        there.exported()
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir() if path.is_file()] == [file.name]


def test_two_exports_of_one_file(there: Place) -> None:
    writer = ArchiveWriter(there.folder / "study.zip")
    with pytest.raises(ArchiveError, match="is being written by another process"):
        ArchiveWriter(there.folder / "study.zip")
    writer.abandon()
    ArchiveWriter(there.folder / "study.zip").abandon()


def test_sums_and_metadata_are_complete(there: Place, tmp_path: Path) -> None:
    with zipfile.ZipFile(there.exported()) as archive:
        archive.extractall(tmp_path / "unpacked")
        names = set(archive.namelist())
    command = ["/usr/bin/sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=tmp_path / "unpacked", check=False)
    assert checked.returncode == 0
    graph = json.loads((tmp_path / "unpacked/ro-crate-metadata.json").read_text())["@graph"]
    entities = {entity["@id"]: entity for entity in graph}
    assert len(entities) == len(graph)
    assert entities["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    root = entities["./"]
    files = {name for name, entity in entities.items() if entity["@type"] == "File"}
    assert files == names - {"SHA256SUMS", "ro-crate-metadata.json"}
    assert {part["@id"] for part in root["hasPart"]} >= files
    assert root["license"] == {"@id": "https://spdx.org/licenses/CC-BY-4.0"}
    assert root["author"] == [{"@id": "https://orcid.org/0000-0001-2345-6789"}, {"@id": "#B"}]

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if value.keys() == {"@id"}:
                yield value["@id"]
            for each in value.values():
                yield from references(each)
        elif isinstance(value, list):
            for each in value:
                yield from references(each)

    outside = {"https://w3id.org/ro/crate/1.1"}
    assert {
        name for entity in graph for name in references(list(entity.values()))
    } - outside <= entities.keys()
    one = tmp_path / "unpacked/trials" / DONE[0].key
    points = pd.read_parquet(one / "points.parquet")
    final = points.set_index("name")["value"]
    assert final["final/test_acc"] == results(DONE[0])["test_acc"]
    rows = pd.read_json(tmp_path / "unpacked/trials.jsonl", lines=True)
    assert set(rows["status"]) == {"FINISHED", "FAILED", "RUNNING", "KILLED"}


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> Path:
    """The archive with other members; with digests that fit, as a forger would write them."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    if sums:
        lines = [
            f"{hashlib.sha256(text).hexdigest()}  {name}\n"
            for name, text in members.items()
            if name != "SHA256SUMS"
        ]
        members["SHA256SUMS"] = "".join(lines).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    file.write_bytes(buffer.getvalue())
    return file


def test_a_damaged_member_costs_its_trial_alone(there: Place, place: Callable[[str], Place]) -> None:
    name = f"trials/{DONE[0].key}/predictions.npz"
    file = rewritten(there.exported(), lambda members: members.update({name: b"forged"}), sums=False)
    archive = Archive(file)
    (line,) = damaged(archive)
    assert line == f"{file}: {name} is not what was exported (its SHA-256 differs)"
    here = place("here")
    counts, left = here.take(archive)
    assert counts == {"NEW": 7}
    assert left == [f"{archive.records[DONE[0].key].name}: {line}"]
    assert DONE[0].key not in here.ledger.trials()
    assert len(here.ledger.trials()) == 6
    assert here.take(there.origin) == ({"NEW": 1, "KNOWN": 6}, [])


def test_names_from_outside_stay_outside(there: Place, place: Callable[[str], Place], tmp_path: Path) -> None:
    def forge(members: dict[str, bytes]) -> None:
        rows = [json.loads(line) for line in members["trials.jsonl"].splitlines()]
        rows.append({**rows[0], "key": "../../../../evil"})
        members["trials.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
        for name in (f"trials/{DONE[0].key}/../../evil", "trials/../evil", "studies/a+b/../evil.py", "/evil"):
            members[name] = b"evil"
        members[f"checkpoints/{HALF.key}/../../evil"] = b"evil"
        about = json.loads(members["study.json"])
        about["studies"]["a+b"]["seed_plan.007"] = '{"cells": 7}'
        about["studies"]["../../x"] = {}
        members["study.json"] = json.dumps(about).encode()

    here = place("here")
    assert here.take(Archive(rewritten(there.exported(), forge))) == ({"NEW": 7}, [])
    assert list(tmp_path.rglob("*evil*")) == []
    assert here.content == there.content
    assert read_seed_plans(here.ledger, "a+b") == read_seed_plans(there.ledger, "a+b")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda members: members.pop("study.json"), "it has no study.json"),
        (lambda members: members.update({"study.json": b'{"format": 99}'}), "has format 99; allowed: 1"),
        (lambda members: members.update({"trials.jsonl": b"{}\n"}), "lacks 'key'"),
        (lambda members: members.update({"trials.jsonl": b"\xff"}), "cannot be read"),
    ],
)
def test_what_is_no_archive_says_so(
    there: Place, change: Callable[[dict[str, bytes]], None], error: str
) -> None:
    with pytest.raises(ArchiveError, match=error):
        _ = Archive(rewritten(there.exported(), change)).records


def test_no_bytes_end_the_reader(there: Place, place: Callable[[str], Place]) -> None:
    """A truncated or altered archive is an error, or a trial less; never another exception."""
    whole, here = there.exported().read_bytes(), place("here")
    file = there.folder / "damaged.zip"
    for number in range(0, len(whole), max(1, len(whole) // 150)):
        altered = bytearray(whole)
        altered[number] ^= 0x55
        file.write_bytes(altered if number % 3 else whole[:number])
        try:
            archive = Archive(file)
            assert damaged(archive) or altered[number] is not None
            plan_merge(archive, here.ledger, here.storage)
        except ArchiveError:
            continue


def test_by_the_client_alone_it_is_the_same(
    there: Place, place: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a tracking server, whose database cannot be read directly."""
    direct = there.content
    monkeypatch.setattr(type(there.ledger.store), "sqlite_file", None)
    seen = Place.__new__(Place)
    seen.ledger = Ledger(uri=there.ledger.uri, experiment="test", artifact_root=there.ledger.artifact_root)
    seen.storage = there.storage
    assert repr(seen.content) == repr(direct)  # where NaN equals itself


def test_some_trials_are_trained_again(
    trained: Callable[..., TrialResult],
    tiny: Callable[..., TrialConfig],
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, trial = trained(), tiny()
    points = [
        Point("train/loss", row["train/loss"], int(row["timestamp"]), int(row["epoch"]))
        for row in result.history
    ]
    record = TrialRecord(
        key=trial.key,
        run_id="r",
        status="FINISHED",
        params=trial.to_params(),
        tags={},
        changed=0,
        metrics=dict(result.metrics),
    )
    equal = judge(record, points, result, "")
    assert equal.holds
    assert equal.text.startswith("equal to the last bit: 2 epochs' losses, ")
    near = [points[0]._replace(value=points[0].value * (1 + 1e-6)), *points[1:]]
    assert not judge(record, near, result, "").holds
    rounded = judge(record, near, result, "device")
    assert rounded.holds
    assert rounded.text.startswith("agrees but for rounding (other device): loss of the first epoch ")
    far = [points[0]._replace(value=points[0].value * 1.1), *points[1:]]
    assert not judge(record, far, result, "device").holds

    alone = SimpleNamespace(
        records={trial.key: record, "0" * 16: replace(record, key="0" * 16)}, points=lambda record: points
    )
    assert sample(alone, 5) == [record]
    assert train_again(alone, record, data_dir).text == equal.text
    other = replace(record, tags={"data.sha256": "f" * 64})
    assert train_again(alone, other, data_dir).text.startswith("the data here are others")


def test_the_commands(
    there: Place, place: Callable[[str], Place], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--experiment", "test", "--output"]
    file = tmp_path / "out.zip"
    assert export_command.main([str(file), *where, str(there.folder)]) == 0
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert capsys.readouterr().out.endswith(f" MB, SHA-256 {digest}\n")
    assert merge_command.main([str(file), "--plan", *where, str(tmp_path / "none")]) == 0
    assert not (tmp_path / "none").exists()
    here = [*where, str(place("new").folder)]
    assert merge_command.main([str(file), "--verify", "0", *here]) == 0
    assert merge_command.main([str(file), *here]) == 0
    text = capsys.readouterr().out
    assert "7  new here" in text
    assert "1  finished results that no driver has logged" in text
    assert "7 trials taken in" in text
    assert merge_command.main([str(there.folder), *here]) == 0
    assert "7  known here" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ((export_command, ["study.tar"]), "FILE: got '.*study.tar'; allowed: a name that ends in .zip"),
        ((export_command, ["no/study.zip"]), "there is no folder"),
        ((export_command, ["x.zip", "--output", "nowhere"]), "no experiment"),
        ((merge_command, ["nothing.zip"]), "SOURCE: there is no nothing.zip; allowed: an archive"),
        ((merge_command, ["."]), "has no mlflow.db; allowed: the --output of a study"),
        ((merge_command, ["s3://bucket/x"]), "--tracking-uri: got 's3://bucket/x'; allowed"),
        ((merge_command, ["text.zip", "--verify", "-1"]), "--verify: got -1; allowed: a number of trials"),
        (
            (merge_command, ["text.zip"]),
            "text.zip is no export of a study, or is damaged: File is not a zip file",
        ),
    ],
)
def test_wrong_usage_is_one_line(
    call: tuple[Any, list[str]],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.zip").write_text("no archive")
    with pytest.raises(SystemExit) as ended:
        call[0].main(call[1])
    assert ended.value.code == 2
    assert re.search(error, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["text.zip"]


def test_an_unfinished_merge_counts_for_nobody(there: Place) -> None:
    run = there.ledger.client.create_run(
        there.ledger.experiment_id, tags={"kind": MERGING, "trial.key": "0" * 16}
    )
    assert "0" * 16 not in there.ledger.trials()
    assert read_points(there.ledger, run.info.run_id) == []
