"""All measurements in one go: the page says what each printed, and one that fails costs no other."""

import importlib.util
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def benchmark(name: str) -> ModuleType:
    """One of the benchmarks, which are no package."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / f"benchmarks/{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def every() -> ModuleType:
    return benchmark("all")


def test_each_measurement_knows_its_options(every: ModuleType) -> None:
    for each in every.possible(every.MEASUREMENTS):
        source = (ROOT / "benchmarks" / each.script).read_text()
        for quick in (False, True):
            options = [word for word in each.words(quick) if word.startswith("--")]
            assert [option for option in options if f'"{option}"' not in source] == [], each.script
    page = (ROOT / "docs/performance.md").read_text()
    measured = {each.script for each in every.MEASUREMENTS} - {"gpu.py"}
    assert [script for script in sorted(measured) if f"benchmarks/{script}" not in page] == []


PROCESS = """
import json, pathlib, sys, time
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
time.sleep(0.5)
with open(pathlib.Path(__file__).with_name("times"), "a") as times:
    times.write(f"{began} {time.monotonic()}\\n")
print("a line of a library")
print(json.dumps({"rate": 2.0, "memory": 1.0}))
"""


def test_processes_that_share_a_gpu_are_measured_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = benchmark("gpu")
    stub = tmp_path / "stub.py"
    stub.write_text(PROCESS)
    monkeypatch.setattr(gpu, "__file__", str(stub))
    args = Namespace(device="cpu", seconds=1.0, batch=8, folder=tmp_path)
    assert gpu.together(args, gpu.Run("resnet18", "fp32", "graph", 3)) == {"rate": 6.0, "memory": 1.0}
    times = [tuple(map(float, line.split())) for line in (tmp_path / "times").read_text().splitlines()]
    assert len(times) == 3
    assert max(began for began, _ in times) < min(ended for _, ended in times)
    stub.write_text("raise SystemExit('no GPU is left')")
    assert gpu.together(args, gpu.Run("resnet18", "fp32", "graph", 2)) == {"error": "no GPU is left"}


def test_the_page_has_the_machine_and_what_each_printed(
    every: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    (scripts / "quickstart.py").write_text("print('first epoch: 5.0 s\\nseconds a trial: 20.5')")
    (scripts / "broken.py").write_text("print('begun'); raise SystemExit('no kornia here')")
    (scripts / "verdict.py").write_text("import sys; print('|', *sys.argv[1:], '|')")
    monkeypatch.setattr(every, "ROOT", tmp_path)
    measurements = [
        every.Measurement("quickstart.py", "From the command to the report"),
        every.Measurement("broken.py", "Broken", "--rounds 3", "--rounds 1"),
        every.Measurement("verdict.py", "What a verdict costs", "power", "power"),
        every.Measurement("gone.py", "Gone"),
    ]
    assert every.possible(measurements) == measurements[:3]
    assert every.measure(measurements[:3], tmp_path / "page.md", quick=True) == 1
    page = (tmp_path / "page.md").read_text()
    assert "its figures mean nothing" in page
    assert " cores, " in page
    assert "\n## From the command to the report\n\n`python benchmarks/quickstart.py`, " in page
    assert "\n```\nfirst epoch: 5.0 s\nseconds a trial: 20.5\n```\n" in page
    assert "`python benchmarks/broken.py --rounds 1`" in page
    assert "**It ended with code 1.**\n\n```\nbegun\nno kornia here\n```" in page
    assert page.endswith("\n| power --seconds 20.5 |\n")
    assert every.measure(measurements[2:3], tmp_path / "page.md", quick=False) == 0
    assert "mean nothing" not in (tmp_path / "page.md").read_text()
    assert "[2/3] benchmarks/broken.py --rounds 1" in capsys.readouterr().out
