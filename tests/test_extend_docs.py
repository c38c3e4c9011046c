"""docs/extend.md: every file in it as typed, every command, every table and every error."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from search_spaces import SEARCHES, SPACES, search_from, selection_from
from search_spaces.own import described
from study.cli.options import parser
from study.planning.measurement import parse_metrics
from study.run import main
from trainables import backbones, tried
from trainables.extensions import INPUTS
from trainables.extensions.files import ExtensionError, load_file, loaded
from trainables.metrics import METRICS, OWN
from trainables.train import train
from trainables.trial import TrialConfig

PAGE = (Path(__file__).resolve().parents[1] / "docs/extend.md").read_text()
FILES = {text.split()[1]: text for text in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)}
"""The examples by the name in their first line."""

pytestmark = pytest.mark.usefixtures("own_files")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, outside the project, with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_has_an_example_of_everything() -> None:
    assert list(FILES) == [f"my_{what}.py" for what in ("space", "tuned_space", *INPUTS, "lists", "search")]
    assert all(text.startswith("# my_") for text in FILES.values())
    assert max(len(text.splitlines()) for text in FILES.values()) <= 22


def test_the_tables_name_every_parameter() -> None:
    for kind in ("term", "augmentation", "metric"):
        (table,) = re.findall(rf"\| parameter of an? {kind} \|.*?\n\n", PAGE, re.DOTALL)
        rows = [row.split("|")[1] for row in table.strip().splitlines()[2:]]
        assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(INPUTS[kind])


@pytest.mark.parametrize(
    ("space", "trials", "arms"),
    [
        ("my_space.py:one_by_one", 5 * 5 * 3, {"ce", "siamese-0", "siamese-0.001"}),
        ("my_tuned_space.py:study", 15, {"ce", "siamese-0", "siamese-0.01"}),
        ("my_term.py", 25, {"ce", "siamese-0", "siamese-0.001", "cosine-0.1", "cosine-1"}),
        ("my_augmentation.py", 45, {"ce", "siamese-0", "siamese-0.001"}),
        ("my_backbone.py", 30, {"ce", "siamese-0", "siamese-0.001"}),
        ("my_metric.py", 12, {"ce", "siamese-0", "siamese-0.001", "siamese-0.01"}),
        ("my_lists.py", 12, {"ce", "siamese-0", "distance-0.001", "distance-0.01"}),
    ],
)
def test_a_space_of_the_page(folder: Path, space: str, trials: int, arms: set[str]) -> None:
    found = selection_from(parser().parse_args(["--space", space]))
    assert len(found.trials) == trials
    assert {trial.arm for trial in found.trials} == arms
    assert found.steps[0] == described()[0]
    tried.check()


def test_the_commands_of_the_page(folder: Path) -> None:
    lines = re.findall(r"^(?:\$ )?python (\S+) ([^#\n]*)", PAGE, re.MULTILINE)
    assert {name for name, _ in lines} == {"study/run.py", "study/measure.py"}
    for name, arguments in lines:
        options, _, metric = arguments.partition("--metric")
        args = parser().parse_args(options.split())
        search = search_from(args)
        chosen = args.space if search else selection_from(args).space
        assert chosen in (SEARCHES if search else SPACES)
        if name == "study/measure.py":
            assert parse_metrics(metric.strip()) == (OWN["confidence"],)
        if search:
            assert search.trials == 20
            assert {trial.arm.partition("-")[0] for trial in search.draw()} == {"ce", "siamese", "gap"}
    (option,) = re.findall(r"`--space (\S+,\S+)`", PAGE)
    assert selection_from(parser().parse_args(["--space", option])).space == "my_space.one_by_one+quickstart"


def test_the_plan_of_the_page(folder: Path) -> None:
    (command, expected) = re.findall(r"```\n\$ python study/run.py (.*?)\n(.*?)```", PAGE, re.DOTALL)[0]
    steps = selection_from(parser().parse_args(command.split())).steps
    assert "\n".join(steps) + "\n" == expected


def test_the_plan_of_a_search_names_what_was_found(
    folder: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--space", "my_search.py", "--plan", "--data-dir", str(data_dir)]) == 0
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == f"my_search.py: term gap ({loaded()[0].items[0].code})"
    assert second == "search my_search.tuned: 12 configurations of each of ce, control, gap, by val_acc"


def test_all_of_the_page_in_one_trial(folder: Path, tiny: Callable[..., TrialConfig], data_dir: Path) -> None:
    """A term, an augmentation, a backbone and metrics of several files are trained and measured."""
    for name in FILES:
        load_file(folder / name)
    tried.check()
    config = tiny(backbone="tiny", augmentations="rrc+fade", term="cosine", gamma=1, epochs=2)
    assert backbones.why_unsupported(config.backbone, config.feature_dim, 32) is None
    codes = {item.name: item.code for file in loaded() for item in file.items}
    assert codes.keys() == {"cosine", "fade", "tiny", "confidence", "distance", "margin", "gap"}
    assert config.term_code == f"cosine@{codes['cosine']}"
    assert config.code == f"tiny@{codes['tiny']}+fade@{codes['fade']}"
    result = train(config, data_dir)
    assert all(0 < row["train/cosine"] < 2 for row in result.history)
    assert 0.1 < result.metrics[OWN["confidence"]] <= 1
    assert result.metrics[OWN["margin"]] > 0
    assert METRICS[OWN["confidence"]].title == "Mean confidence"
    other = train(config.replace(term="distance"), data_dir)
    assert [row["train/ce"] for row in other.history] != [row["train/ce"] for row in result.history]
    assert all(row["train/distance"] > 0 for row in other.history)


EDITS = (("z2):", "z2)"), ("def cosine", "def vicreg"), (".mean()", ""), ('"cosine"', '"cosin"'))
"""What makes the errors of the page of its `my_term.py`, in their order."""


def refused(space: str) -> str:
    """The error for a space, when it is loaded or when what it defines is tried."""
    try:
        selection_from(parser().parse_args(["--space", space]))
        tried.check()
    except ExtensionError as error:
        return str(error)
    pytest.fail(f"{space} is not refused")


def test_the_errors_of_the_page(folder: Path) -> None:
    *errors, missing = re.findall(r"```\n((?:my_term.py:\d+: .*?\n)+--space: .*?\n)```", PAGE)[0].splitlines()
    path = folder / "my_term.py"
    for (old, new), expected in zip(EDITS, errors, strict=True):
        text = FILES[path.name]
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        found, beginning = refused(path.name), expected.removesuffix("…")
        assert found == expected or (beginning != expected and found.startswith(beginning))
    path.write_text(FILES[path.name])
    assert refused("my_term.py:does_it") == missing
