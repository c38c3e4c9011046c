"""A plan and the first lines of a study say when the precision of their trials is slow on this processor."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.planning import precision
from study.session.study_plan import precision_lines
from trainables import bf16
from trainables.trial import TrialConfig


@pytest.mark.parametrize(
    ("line", "units"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", "AMX"),
        ("flags\t\t: fpu avx2 avx512_bf16", "AVX512-BF16"),
        ("flags\t\t: fpu avx2", ""),
        ("Features\t: fp asimd bf16", None),
    ],
)
def test_units_are_those_of_the_processor(
    line: str, units: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "CPUINFO", tmp_path / "cpuinfo")
    assert bf16.units() is None
    bf16.CPUINFO.write_text(f"processor : 0\n{line}\n")
    assert bf16.units() == units


SLOW = r"bf16 is slow on this processor: .* takes 1\.9 times as long .*; --set precision=fp32 .*"
FAST = r"bf16 is fast on this processor: .* 5\.0 times as fast .*; --set precision=bf16 .*"


@pytest.mark.parametrize(
    ("chosen", "units", "times", "said"),
    [
        ("bf16", "AVX512-BF16", 1.9, SLOW),
        ("bf16", None, 1.9, SLOW),
        ("bf16", "AVX512-BF16", 0.6, None),  # some are fast without AMX
        ("fp32", "AMX", 0.2, FAST),
        ("fp32", "AMX", 0.9, None),
        ("fp32", "", 30.0, None),
        ("bf16", "AMX", None, None),
        ("bf16", "AVX512-BF16", None, r"bf16 may be slow .* AVX512-BF16, but no AMX; --plan --probe .*"),
        ("bf16", "", None, r"bf16 may be slow .* emulates it; --plan --probe .* --set precision=fp32 .*"),
        ("fp32", "", None, None),
        ("fp32", "AMX", None, r"bf16 may be fast .* AMX; --plan --probe .* --set precision=bf16 .*"),
        ("bf16", None, None, None),
    ],
)
def test_measurements_decide_and_else_the_processors_units(
    *,
    chosen: str,
    units: str | None,
    times: float | None,
    said: str | None,
    tiny: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A measurement that fails (None) is no error."""
    monkeypatch.setattr(bf16, "units", lambda: units)
    monkeypatch.setattr(precision, "_measured", lambda: times)
    lines = precision.lines([tiny(precision=chosen)], measure=True)
    assert len(lines) == (said is not None)
    assert said is None or re.fullmatch(said, lines[0])
    assert precision.lines([], measure=True) == []


@pytest.mark.parametrize(
    ("chosen", "plan", "probed", "measures"),
    [
        ("bf16", True, False, False),
        ("bf16", True, True, True),
        ("bf16", False, False, True),
        ("fp32", False, False, False),
    ],
)
def test_a_plan_measures_only_when_asked_to(
    *, chosen: str, plan: bool, probed: bool, measures: bool, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bf16, "units", lambda: "AVX512-BF16")
    asked: list[bool] = []
    monkeypatch.setattr(precision, "_measured", lambda: asked.append(True) or 3.0)
    trials = [tiny(precision=chosen)]

    def lines(gpus: float | None = None, address: str | None = None) -> list[str]:
        allocation = SimpleNamespace(gpus=gpus)
        invocation: Any = SimpleNamespace(
            allocation=allocation, args=SimpleNamespace(plan=plan, address=address)
        )
        return precision_lines(invocation, trials, measure=probed)

    assert len(lines()) == (chosen == "bf16")
    assert bool(asked) == measures
    assert lines(gpus=0.5) == lines(address="10.0.0.1:6379") == []  # not this processor trains


def test_the_probe_measures_here(monkeypatch: pytest.MonkeyPatch) -> None:
    times = bf16.relative_time()
    assert 0.02 < times < 1000

    def runs(command: list[str], **_: object) -> SimpleNamespace:
        assert command[-1] == "trainables.bf16"
        return SimpleNamespace(stdout="2.5\n")

    monkeypatch.setattr(subprocess, "run", runs)
    assert precision._measured() == 2.5


def test_a_probe_that_fails_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], **_: object) -> None:
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fails)
    assert precision._measured() is None


def test_trials_of_both_precisions_are_slow(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bf16, "units", lambda: "")
    trials: list[TrialConfig] = [tiny(precision=name) for name in ("fp32", "bf16")]
    assert "emulates" in precision.lines(trials, measure=False)[0]
