"""What the plan says of a selection."""

import re
from collections.abc import Sequence

import pytest

from search_spaces import SPACES, select
from study.planning.plan import Plan, describe, folded, seeds_lines
from study.run import main


def planned(space: str, **selection: object) -> list[str]:
    chosen = select(space, **selection)  # type: ignore[arg-type]
    plan = Plan(selection=chosen, done=(), stale=(), failed=(), half_done=(), new=chosen.trials, records={})
    return describe(plan)


def whole(lines: Sequence[str]) -> str:
    """The text of lines that were folded."""
    return " ".join(line.strip() for line in lines)


@pytest.mark.parametrize("arms", [1, 3, 4])
@pytest.mark.parametrize(
    ("seeds", "floor"),
    [
        (1, "1 reaches 1"),
        (3, "3 reach 0.25"),
        (5, "5 reach 0.062"),
        (6, "the smallest possible is 0.031"),
        (8, "the smallest possible is 0.0078"),
    ],
)
def test_smallest_p(arms: int, seeds: int, floor: str) -> None:
    """2 / 2ⁿ of joint sign flips, whatever the number of arms: at most 0.05 from six seeds on."""
    names = ["ce", "siamese-0", "siamese-0.0001", "siamese-0.001", "siamese-0.01"][: arms + 1]
    chosen = select("thesis", seeds=seeds, only=[f"arm={','.join(names)}"])
    takes = "a claim takes at least 3, an exact sign-flip p of 0.05 takes 6"
    assert seeds_lines(chosen.trials) == [f"seeds: {seeds} of each arm; {takes} ({floor})"]


def test_seeds_are_the_last_thing_that_a_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--space", "quickstart", "--plan"]) == 0
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first == "12 planned: 0 done, 0 half-done, 0 failed, 12 new; to run: 12"
    assert last.startswith("seeds: 3 of each arm; ")
    assert not any("sign-flip" in line for line in planned("quickstart"))


def test_no_p_where_nothing_is_compared() -> None:
    assert seeds_lines(select("quickstart", only=["arm=ce"]).trials) == []
    assert seeds_lines(select("quickstart", only=["arm=siamese-0"]).trials) == []


def test_smallest_p_is_that_of_the_family_with_fewest_seeds() -> None:
    """Three comparisons of eight seeds in one cell, one of five in another."""
    three = "arm=ce,siamese-0.0001,siamese-0.001,siamese-0.01"
    large = select("thesis", seeds=8, only=["augmentations=rrc", three]).trials
    small = select("thesis", seeds=5, only=["augmentations=hflip", "arm=ce,siamese-0.01"]).trials
    for trials, n in ((large, 8), ((*large, *small), 5)):
        (told,) = seeds_lines(trials)
        assert told.startswith(f"seeds: {n} of each arm; ")


def test_a_control_that_is_another_cell_is_a_family_too() -> None:
    """`ce` for twice the epochs has three seeds where the others have six."""
    trials = select("controls", seeds=6, only=["augmentations=rrc"]).trials
    few = tuple(trial for trial in trials if trial.epochs == 1000 or trial.seed < 3)
    (told,) = seeds_lines(few)
    assert told.startswith("seeds: 3 of each arm; ")


def test_smallest_p_above_sixteen_seeds_is_of_random_patterns() -> None:
    (told,) = seeds_lines(select("quickstart", seeds=20).trials)
    assert told.endswith("a sign-flip p of 0.05 takes 6 (the smallest possible is 2e-05)")


@pytest.mark.parametrize("space", SPACES)
def test_no_line_is_longer_than_a_terminal(space: str) -> None:
    assert max(map(len, planned(space))) <= 100


def test_many_arms_are_counted_by_their_term() -> None:
    text = whole(planned("rivals"))
    assert "stl10/resnet18/rrc+hflip+grayscale+solarize: 38 arms (ce, siamese-0, 6 barlow_twins, 3 " in text
    assert "3 mse, unsupervised-barlow_twins-0.01, fixmatch-0, fixmatch-1) x seeds 0-4, 1000 epochs," in text


def test_a_long_line_is_broken_between_items() -> None:
    words = f"  {'word ' * 18}word"
    assert folded(["short", "", f"{words} xx\N{NO-BREAK SPACE}y"]) == ["short", "", words, "      xx y"]


def test_cells_that_differ_in_augmentations_alone_are_one_line() -> None:
    lines = planned("ablations")
    assert lines[1:3] == ["space ablations: 1600 trials", "64 cells:"]
    assert [line.partition(":")[0] for line in lines if re.match("  [a-z]", line)] == [
        f"  {dataset}/{backbone}/{{16 subsets}}"
        for dataset in ("cifar10", "stl10")
        for backbone in ("resnet18", "vgg16")
    ]
    few = planned("ablations", only=["dataset=stl10", "backbone=vgg16", "augmentations=rrc,none"], seeds=3)
    arms = "ce, siamese-0, siamese-0.0001, siamese-0.001, siamese-0.01"
    settings = f"{arms} x seeds 0-2, 1000 epochs, unlabeled_size 5000"
    assert whole(few).endswith(f" stl10/vgg16/{{none, rrc}}: {settings}: each 15 planned, 15 to run")


def test_each_cell_has_its_counts() -> None:
    chosen = select("ablations", only=["dataset=stl10", "backbone=vgg16", "arm=ce"], seeds=2)
    of = {str(trial.augmentations): trial for trial in chosen.trials if trial.seed == 0}
    first, second, third, fourth = list(of.values())[:4]
    plan = Plan(
        selection=chosen,
        done=(first,),
        stale=(fourth,),
        failed=(second,),
        half_done=(third,),
        new=tuple(t for t in chosen.trials if t not in {first, second, third, fourth}),
        records={},
    )
    counts = [line.rpartition(": ")[2] for line in describe(plan) if re.match("  [a-z]", line)]
    assert counts == [
        "2 planned, 1 done, 1 to run",
        "2 planned, 1 failed, 1 to run",
        "2 planned, 1 half-done, 2 to run",
        "2 planned, 1 stale, 1 to run",
        "each 2 planned, 2 to run",
    ]
    again = describe(plan, retry_failed=True)
    again = [line.rpartition(": ")[2] for line in again if re.match("  [a-z]", line)]
    assert again[1] == "2 planned, 1 failed, 2 to run"


def test_a_line_says_what_all_arms_share_and_what_tells_them_apart() -> None:
    thesis = whole(planned("thesis"))
    assert thesis.count("views asymmetric") == 4
    assert thesis.count("unlabeled_size 5000") == 2
    controls = whole(planned("controls"))
    assert "siamese-0 views=asymmetric, siamese-0 views=symmetric" in controls
    assert "ce x seeds 0-4, 2000 epochs" in controls
    gaps = planned("quickstart", seeds=6, only=["seed=0,2,3,5"])
    assert "x seeds 0, 2-3, 5, 60 epochs" in whole(gaps)
