"""A study that is killed again and again ends like one that was left alone.

`KILLS=50 EPOCHS=500 python -m pytest -n 0 -s tests/test_kills.py` kills a longer one at random moments, too.
"""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import (
    HALF_STUDY,
    STUDY,
    WITHOUT_TSNE,
    at_start,
    check_equal,
    descendants,
    held,
    kill_tree,
    read_until,
    records,
    run,
    saved_states,
    slowed_down,
    start,
    wait_for,
    wait_for_a_saved_state,
    workers,
)

KILLS = int(os.environ.get("KILLS", "0"))


def test_killed_at_the_worst_moments(tmp_path: Path, undisturbed: Path) -> None:
    """The whole process tree, with -9, each time one step before or after what must not be done twice."""
    note, database, bundles = tmp_path / "held", tmp_path / "runs/mlflow.db", tmp_path / "runs/results"
    with_report = [word for word in HALF_STUDY if word != "--no-report"]

    def killed(source: str, *arguments: str, when: Callable[[], object] = note.exists) -> None:
        note.unlink(missing_ok=True)
        process = start(tmp_path, *arguments, environment=slowed_down(tmp_path, source))
        wait_for(when, process)
        kill_tree(process)

    # States are saved; a ledger and a result are whole, and have not got their names.
    nameless = held(note, renaming=["/mlflow.db", "/results/"])
    killed(nameless, *HALF_STUDY, when=lambda: note.exists() and list(bundles.glob(".*.zip-*")))
    assert not database.exists()
    assert saved_states(tmp_path)
    for left in bundles.glob("*"):
        assert left.name.startswith(".")  # nobody reads it
        left.unlink()

    # All of a trial is logged, and its run is not FINISHED.
    killed(held(note, finishing="before"), *HALF_STUDY)
    assert {r.status for r in records(tmp_path).values()} == {"RUNNING"}
    assert list(bundles.glob("*.zip"))
    assert saved_states(tmp_path)

    killed(held(note, renaming=["reports/"]) + WITHOUT_TSNE, *with_report)
    assert {r.status for r in records(tmp_path).values()} == {"FINISHED"}
    assert not list(tmp_path.glob("reports/*/report.html"))

    done = run(tmp_path, *with_report, environment=at_start(tmp_path, WITHOUT_TSNE))
    assert done.returncode == 0, done.stderr
    assert "2 done, 0 half-done, 0 failed, 0 new; to run: 0" in done.stdout
    assert list(tmp_path.glob("reports/*/report.html"))
    check_equal(tmp_path, undisturbed, seeds=1)


@pytest.mark.skipif(not KILLS, reason="KILLS=50 asks for it")
def test_killed_at_random_moments(tmp_path: Path, undisturbed: Path) -> None:
    """The whole process tree, with -9, while it starts, trains, logs or evaluates."""
    chance = random.Random(0)  # noqa: S311  # not for secrets
    kills = at_work = 0
    complete = False
    while kills < KILLS:
        process = start(tmp_path, *STUDY)
        if kills % 2 or complete:
            time.sleep(chance.uniform(0.5, 10))
        elif wait_for_a_saved_state(process, tmp_path):
            at_work += 1
            time.sleep(chance.uniform(0, 3))
        else:
            complete = True  # from here on only what starts, looks and renders is killed
        if process.poll() is None:
            kill_tree(process)
            kills += 1
        else:
            process.communicate()
    done = run(tmp_path, *STUDY)
    assert done.returncode == 0, done.stderr
    check_equal(tmp_path, undisturbed)
    assert at_work >= 2, "the study was over too soon: this test tests nothing"
    print(f"{kills} kills, {at_work} of them soon after a state was saved")


@pytest.mark.usefixtures("blank_store")
def test_stopped_in_order_with_a_damaged_state_and_a_lost_worker(tmp_path: Path, undisturbed: Path) -> None:
    """Ctrl-C; the newest state cut in half; a worker killed; SIGTERM; and then left alone."""
    one_seed = [*STUDY, "--seeds", "1"]  # two trials at a time, as on two cores
    alone = HALF_STUDY  # the same two, one after the other
    environment = slowed_down(tmp_path)
    process = start(tmp_path, *one_seed, environment=environment)
    assert wait_for_a_saved_state(process, tmp_path)
    ours = descendants(process.pid)
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert time.monotonic() - asked < 20
    while left := [pid for pid in ours if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() - asked < 30, f"processes are left behind: {left}"
        time.sleep(0.5)
    assert re.search(r"stopped by SIGINT: \d of 2 trials are missing\nresume:   python ", out)

    cut = max(saved_states(tmp_path), key=lambda path: path.stat().st_mtime_ns)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    process = start(tmp_path, *alone, environment=environment)
    before = read_until(process, "resumes after epoch")
    os.kill(workers(process)[0], signal.SIGKILL)
    assert wait_for_a_saved_state(process, tmp_path)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert re.search(r"stopped by SIGTERM: \d of 2 trials are missing\nresume:   python ", out)
    seen = cut.with_name(f"{cut.name}.damaged").exists()

    done = run(tmp_path, *alone)
    assert done.returncode == 0, done.stderr
    # By whichever attempt comes to it; the one that was killed may not have lived to say so.
    said = f"{cut.parent.name}/{cut.name} is quarantined: it is cut short or altered"
    assert seen or said in before + out + done.stdout
    check_equal(tmp_path, undisturbed, seeds=1)
    attempts = [int(r.tags["attempts"]) for r in records(tmp_path).values()]
    # How many had begun when they were stopped is chance; the lost worker's is begun again in any case.
    assert sum(attempts) > len(attempts), "no worker was lost: this test tests nothing"
