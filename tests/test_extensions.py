"""Own files: what changes a trial's key, what is refused, and what workers get."""

import pickle
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from search_spaces import SEARCHES, SPACES, select
from search_spaces.families import families
from search_spaces.own import resolved
from trainables.catalogue import AUGMENTATIONS, BACKBONES, TERMS
from trainables.extensions import METRIC_INPUTS, TERM_INPUTS, functions
from trainables.extensions.files import (
    ExtensionError,
    OwnFile,
    load_file,
    load_shipped,
    load_source,
    loaded,
)
from trainables.metrics import METRICS, OWN
from trainables.trial import TrialConfig

pytestmark = pytest.mark.usefixtures("own_files")
Tiny = Callable[..., TrialConfig]

STUDY = """
import torch
import torch.nn.functional as F

from search_spaces import arms, product, trials
from trainables.extensions import augmentation, backbone, metric, term

SCALES = {"cosine": 1.0}
SCALES.update(cosine=2.0)
LOW = 0.5


class Distance:
    def of(self, z1, z2):
        return 1 - F.cosine_similarity(z1, z2).to(torch.float32)


def mean_distance(z1, z2):
    return Distance().of(z1, z2).mean()


@term
def cosine(z1, z2):
    return SCALES["cosine"] * mean_distance(z1, z2)


@term
def distance(z1, z2):
    return (z1 - z2).abs().mean()


@augmentation(p=0.3)
def fade(images, u):
    return images * (LOW + (1 - LOW) * u[:, :, None, None])


@backbone
def tiny_net(feature_dim):
    pool = torch.nn.AdaptiveAvgPool2d(4)
    return torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(48, feature_dim))


@metric(title="Mean confidence", unit="%", better="")
def confidence(logits):
    return logits.softmax(1).amax(1).mean()


def one_by_one():
    subsets = [("rrc",), ("rrc", "fade")]
    rows = product(seed=range(2), augmentations=subsets, arm=arms([0, 0.1], term="cosine"))
    return trials(rows, dataset="digits", backbone="tiny_net", epochs=3)
"""


def load(source: str = STUDY, name: str = "my_study.py") -> OwnFile:
    return load_source(name, source)


def edited(*replacements: tuple[str, str], source: str = STUDY) -> str:
    """The source with each text, which it has once, replaced."""
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    return source


def code(source: str, name: str = "cosine") -> str:
    return next(item.code for item in load(source).items if item.name == name)


# ---------------------------------------------------------------- the digest


@pytest.mark.parametrize(
    "replacements",
    [
        [("def mean_distance", "# A remark.\n\n\n\ndef mean_distance")],
        [('SCALES = {"cosine": 1.0}', "SCALES = {'cosine': 1.0}  # one")],
        [("    return SCALES", '    """Cosines."""\n    return SCALES')],
        [("    def of(self, z1, z2):", '    """A distance."""\n\n    def of(self, z1, z2):')],
        [("def mean_distance(z1, z2):", "def mean_distance(\n    z1,\n    z2,\n):")],
        [("@term\ndef cosine", '@term(title="Cosine")\ndef cosine')],
        [("@term\ndef cosine", "@term()\ndef cosine")],
        [("epochs=3", "epochs=4")],
        [("def one_by_one", "GAMMAS = [cosine, SCALES, LOW]\n\n\ndef one_by_one")],
        [("(z1 - z2).abs()", "(z1 - z2).square()")],
        [("import torch\n", "import math\nimport torch\n")],
        [("import torch\n", "import torch.utils\nimport torch\nimport torch.linalg\n")],
        [
            ("import torch\nimport torch.nn.functional as F", ""),
            ("import augmentation", "import augmentation"),
            ("\nfrom search_spaces", "import torch.nn.functional as F\nimport torch\nfrom search_spaces"),
        ],
        [("LOW = 0.5", "LOW = 0.25")],
        [("p=0.3", "p=0.4")],
        [("LOW = 0.5", "LOW = 0.5\nif __name__ == '__main__':\n    print(cosine)")],
        [("rows = product", "SCALES = None\n    rows = product")],
        [("(z1 - z2).abs()", "(lambda SCALES: SCALES)(z1 - z2).abs()")],
    ],
    ids=[
        *(
            "comment",
            "quotes",
            "docstring",
            "docstring of a class",
            "line breaks",
            "title",
            "no title",
            "space",
        ),
        *("list", "another term", "another import", "submodules", "order of imports", "another constant"),
        *("options of another", "script", "local name", "local name of a lambda"),
    ],
)
def test_what_a_term_does_not_depend_on_changes_nothing(replacements: list[tuple[str, str]]) -> None:
    changed = edited(*replacements)
    assert changed != STUDY
    assert code(changed) == code(STUDY)


@pytest.mark.parametrize(
    "replacements",
    [
        [("return SCALES", "return 2 * SCALES")],
        [('"cosine": 1.0', '"cosine": 3.0')],
        [("update(cosine=2.0)", "update(cosine=3.0)")],
        [(".of(z1, z2).mean()", ".of(z1, z2).sum()")],
        [("return 1 - F.", "return 2 - F.")],
        [("import torch.nn.functional as F", "import torch.nn.functional as F\n\nF = F")],
        [("LOW = 0.5", 'LOW = 0.5\nSCALES["cosine"] *= 2')],
        [
            ("LOW = 0.5", 'LOW = 0.5\ndel SCALES["other"]\n'),
            ('{"cosine": 1.0}', '{"cosine": 1.0, "other": 2}'),
        ],
        [("LOW = 0.5", 'LOW = 0.5\nold = SCALES.setdefault("cosine", 4.0)')],
        [("@term\ndef cosine", "Distance.eps = 3\n\n\n@term\ndef cosine")],
        [("LOW = 0.5", 'LOW = 0.5\nfor name in ("cosine", "other"):\n    SCALES[name] = 4.0')],
        [("LOW = 0.5", "LOW = 0.5\nif LOW < 1:\n    low = LOW\n    SCALES.update(cosine=low)")],
        [("LOW = 0.5", 'LOW = 0.5\ndef grow():\n    SCALES["cosine"] = 5.0\ngrow()')],
        [("LOW = 0.5", "LOW = 0.5\ndef grow():\n    global SCALES\n    SCALES = {'cosine': 5.0}\ngrow()")],
        [
            ("LOW = 0.5", "LOW = 0.5\ntorch.set_default_dtype(torch.float32)"),
            ("return SCALES", "torch\n    return SCALES"),
        ],
        [("LOW = 0.5", "from math import *"), ("LOW + (1 - LOW)", "0.5 + 0.5")],
    ],
    ids=[
        *(
            "itself",
            "constant",
            "update",
            "function",
            "class of a function",
            "import",
            "item",
            "deleted",
            "method",
            "attribute",
        ),
        *("loop", "condition", "function that acts", "global", "setting of a library", "star"),
    ],
)
def test_what_a_term_uses_is_part_of_it(replacements: list[tuple[str, str]]) -> None:
    assert code(edited(*replacements)) != code(STUDY)


@pytest.mark.parametrize(
    "body",
    ["LOW = 1.0\n    return LOW *", "return (lambda LOW: LOW)(1) *", "return [LOW for LOW in [1]][0] *"],
)
def test_a_local_name_is_not_that_of_the_file(body: str) -> None:
    local = edited(("    return SCALES", f"    {body} SCALES"))
    assert code(local) == code(local.replace("LOW = 0.5", "LOW = 0.25"))
    used = edited(("    return SCALES", "    return (lambda x: x * LOW)(1) * SCALES"))
    assert code(used) != code(used.replace("LOW = 0.5", "LOW = 0.25"))


def test_how_often_and_by_how_many_numbers_is_part_of_an_augmentation() -> None:
    before = code(STUDY, "fade")
    changes = [("p=0.3", "p=0.4"), ("p=0.3", "p=0.3, numbers=2"), ("LOW = 0.5", "LOW = 0.25")]
    assert len({before, *(code(edited(change), "fade") for change in changes)}) == 4
    assert code(edited(("p=0.3", "numbers=1, p=3 / 10")), "fade") == before
    by_name = edited(("@augmentation(p=0.3)", "@augmentation(p=P)"), ("LOW = 0.5", "LOW = 0.5\nP = 0.3"))
    assert code(by_name, "fade") == before
    assert code(by_name.replace("P = 0.3", "P = 0.6"), "fade") != before


def test_listed_functions_are_what_decorated_ones_are() -> None:
    lists = (
        "\nTERMS = [cosine, distance]\nAUGMENTATIONS = [augmentation(p=0.3)(fade)]\nBACKBONES = (tiny_net,)"
    )
    plain = re.sub(r"@(term|backbone|augmentation.*)\n", "", STUDY) + lists
    decorated, listed = load(), load(plain)
    names = [item.name for item in decorated.items]
    assert names == ["cosine", "distance", "fade", "tiny_net", "confidence"]
    assert [(i.kind, i.name, i.code) for i in listed.items] == [
        (i.kind, i.name, i.code) for i in decorated.items
    ]
    assert AUGMENTATIONS["fade"].p == 0.3
    assert code(plain.replace("augmentation(p=0.3)(fade)", "fade"), "fade") != code(plain, "fade")


def test_lists_that_are_imported_are_no_lists_of_this_file() -> None:
    assert [i.name for i in load("from search_spaces import AUGMENTATIONS, TERMS\n" + STUDY).items] == [
        i.name for i in load().items
    ]


def test_a_listed_function_may_come_from_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code there is no part of the key, and it keeps no mark."""
    source = "from torch.nn.functional import relu as lifted\n\nAUGMENTATIONS = [lifted]"
    with pytest.raises(ExtensionError, match=r"'relu' is not a function at the top level of the file$"):
        load(source)
    assert not hasattr(torch.nn.functional.relu, "study_mark")
    with pytest.raises(
        ExtensionError, match=r"^my_study.py:1: augmentation 'relu' takes 'input'; allowed: im"
    ):
        load(source.replace(" as lifted", "").replace("lifted", "relu"))
    lab = types.ModuleType("lab")
    exec("def agreement(z1, z2):\n    return (z1 * z2).mean()", lab.__dict__)  # noqa: S102
    monkeypatch.setitem(sys.modules, "lab", lab)
    (item,) = load("import math\nfrom lab import agreement\n\nTERMS = [agreement]").items
    assert (item.kind, item.name, item.line) == ("term", "agreement", 2)
    assert TERMS["agreement"].needs == ("z",)
    assert functions["term", "agreement"] is lab.agreement
    assert not hasattr(lab.agreement, "study_mark")


# ---------------------------------------------------------------- keys of trials


def arms_of(tiny: Tiny) -> dict[str, TrialConfig]:
    return {
        "ce": tiny(method="ce", gamma=None),
        "control": tiny(gamma=0, term="cosine"),
        "cosine": tiny(term="cosine"),
        "distance": tiny(term="distance"),
        "fade": tiny(augmentations=("rrc", "fade")),
        "net": tiny(backbone="tiny_net"),
        "both": tiny(backbone="tiny_net", augmentations=("fade",), term="cosine"),
    }


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        (("SCALES.update(cosine=2.0)", ""), {"cosine", "both"}),
        (("abs()", "square()"), {"distance"}),
        (("LOW = 0.5", "LOW = 0.25"), {"fade", "both"}),
        (("AdaptiveAvgPool2d", "AdaptiveMaxPool2d"), {"net", "both"}),
        (("amax(1)", "amin(1)"), set()),
        (("epochs=3", "epochs=4"), set()),
    ],
)
def test_an_edit_makes_those_trials_new_that_have_the_part(
    tiny: Tiny, edit: tuple[str, str], changed: set[str]
) -> None:
    load()
    before = {name: trial.key for name, trial in arms_of(tiny).items()}
    load(edited(edit))
    after = {name: trial.key for name, trial in arms_of(tiny).items()}
    assert {name for name in before if before[name] != after[name]} == changed


def test_built_in_trials_do_not_know_of_the_file(tiny: Tiny) -> None:
    before = [tiny(), tiny(gamma=0), tiny(method="ce", gamma=None), tiny(term="byol")]
    load()
    after = [trial.replace() for trial in before]
    assert [trial.key for trial in before] == [trial.key for trial in after]
    assert {(trial.code, trial.term_code) for trial in after} == {(None, None)}
    assert tiny(gamma=0, term="cosine") == tiny(gamma=0)  # one control for all terms


def test_a_trial_tells_the_code_of_its_parts(tiny: Tiny) -> None:
    codes = {item.name: item.code for item in load().items}
    both = arms_of(tiny)["both"]
    assert both.term_code == f"cosine@{codes['cosine']}"
    assert both.code == f"tiny_net@{codes['tiny_net']}+fade@{codes['fade']}"
    assert both.arm == "cosine-0.01"
    assert both.cell == both.replace(method="ce", gamma=None).cell  # so that arms are compared


def test_a_recorded_trial_keeps_its_key_after_an_edit(tiny: Tiny) -> None:
    load()
    old = arms_of(tiny)["both"]
    params = old.to_params()
    load(edited(("LOW = 0.5", "LOW = 0.25"), ("2.0", "3.0"), ("AdaptiveAvgPool2d", "AdaptiveMaxPool2d")))
    assert arms_of(tiny)["both"].key != old.key
    read = TrialConfig.from_params(params)
    assert (read, read.key) == (old, old.key)
    seed = read.replace(seed=3)
    assert (seed.term_code, seed.code) == (old.term_code, old.code)
    assert seed.key == TrialConfig.from_params({**params, "seed": "3"}).key
    assert pickle.loads(pickle.dumps(read)).key == old.key  # noqa: S301


def test_another_term_has_its_own_code(tiny: Tiny) -> None:
    codes = {item.name: item.code for item in load().items}
    mine = tiny(term="cosine")
    assert mine.replace(gamma=0) == tiny(gamma=0)
    assert mine.replace(gamma=0).term_code is None
    assert mine.replace(term="vicreg") == tiny(term="vicreg")
    assert mine.replace(term="distance").term_code == f"distance@{codes['distance']}"
    recorded = TrialConfig.from_params(mine.to_params())
    assert recorded.replace(term="vicreg").key == tiny(term="vicreg").key
    assert recorded.replace(term="distance").term_code == f"distance@{codes['distance']}"
    assert recorded.replace(gamma=0).replace(gamma=0.01) == mine
    with pytest.raises(ValueError, match=r"^term_code: got 'cosine'; allowed: name@digest$"):
        tiny(term="cosine", term_code="cosine")


def test_a_metric_is_no_part_of_a_trial_and_has_its_code_in_its_name(tiny: Tiny) -> None:
    load()
    (name,) = OWN.values()
    assert re.fullmatch(r"confidence-[0-9a-f]{8}", name)
    assert (METRICS[name].title, METRICS[name].unit, METRICS[name].better) == ("Mean confidence", "%", "")
    load(edited(("amax(1)", "amin(1)")))
    (other,) = OWN.values()
    assert other != name
    assert name not in METRICS
    assert other in METRICS
    load(edited(("Mean confidence", "Confidence")))
    assert dict(OWN) == {"confidence": name}
    assert METRICS[name].title == "Confidence"


def test_a_metric_of_embeddings_is_of_trials_that_have_some(tiny: Tiny) -> None:
    load(edited(("confidence(logits)", "confidence(z)"), ("logits.softmax(1)", "z")))
    about = METRICS[OWN["confidence"]]
    assert about.where.holds(tiny())
    assert not about.where.holds(tiny(gamma=0))


# ---------------------------------------------------------------- versions of a file


def test_what_a_file_no_longer_defines_is_unknown(tmp_path: Path, tiny: Tiny) -> None:
    before = {kind: dict(known) for kind, known in known_now().items()}
    path = tmp_path / "my_study.py"
    path.write_text(STUDY + "\n\ndef half():\n    return one_by_one()[:2]\n")
    assert resolved(f"{path}:half") == "my_study.half"
    assert resolved(f"{path}:one_by_one") == "my_study.one_by_one"
    assert {"my_study.half", "my_study.one_by_one"} <= SPACES.keys()
    path.write_text("from search_spaces import *\n\ndef one_by_one():\n    return SPACES['quickstart']()")
    assert resolved(str(path)) == "my_study.one_by_one"
    del before["spaces"]
    assert {kind: known for kind, known in known_now().items() if kind != "spaces"} == before
    assert "my_study.half" not in SPACES
    assert len(SPACES["my_study.one_by_one"]()) == 12
    with pytest.raises(ValueError, match=r"^term: got 'cosine'"):
        tiny(term="cosine")
    assert [item for file in loaded() for item in file.items] == []


def known_now() -> dict[str, dict[Any, Any]]:
    return {
        "terms": dict(TERMS),
        "augmentations": dict(AUGMENTATIONS),
        "backbones": dict(BACKBONES),
        "metrics": dict(METRICS),
        "functions": dict(functions),
        "spaces": dict(SPACES),
    }


def test_a_space_may_become_a_search(tmp_path: Path) -> None:
    path = tmp_path / "my_study.py"
    path.write_text(STUDY)
    resolved(f"{path}:one_by_one")
    path.write_text(
        "from search_spaces import Parameter, Search, loguniform\n\ndef one_by_one():\n    'Which lr?'\n"
        "    fixed = dict(dataset='digits', val_fraction=0.1, backbone='convnet', augmentations='')\n"
        "    return Search(name='any', fixed=fixed, parameters=[Parameter('lr', loguniform(1e-3, 1))])\n"
    )
    assert resolved(str(path)) == "my_study.one_by_one"
    assert "my_study.one_by_one" not in SPACES
    made = SEARCHES["my_study.one_by_one"]
    assert made().name == "my_study.one_by_one"
    assert made.__doc__ == "Which lr?"


def test_after_an_error_the_version_before_is_still_known(tiny: Tiny) -> None:
    load()
    before, known = tiny(term="cosine"), known_now()
    for wrong in ("1 / 0", "@term\ndef vicreg(z1, z2): ...", "def broken("):
        with pytest.raises(ExtensionError):
            load(STUDY + wrong)
        assert known_now() == known
        assert tiny(term="cosine") == before
        assert sys.modules["own_file_my_study"] is loaded()[0].module


def test_one_version_is_loaded_once() -> None:
    file = load()
    assert load() is file
    assert load(STUDY + "#") is not file
    assert [own.source for own in loaded()] == [STUDY + "#"]


def test_a_file_may_have_dataclasses() -> None:
    """They look for their module by its name."""
    head = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    assert load(f"{head}@dataclass\nclass A:\n    b: int = 1\n").module.A().b == 1


# ---------------------------------------------------------------- other processes


def test_a_worker_gets_trials_with_the_same_keys(tiny: Tiny) -> None:
    shipped = [load().shipped, load("TERMS = ()", "other.py").shipped]
    trials = arms_of(tiny)
    wanted = {name: (trial.to_params(), trial.key) for name, trial in trials.items()}
    shipped = pickle.loads(pickle.dumps(shipped))  # noqa: S301
    load_shipped([])  # an earlier process, or a fresh one
    assert loaded() == []
    assert "cosine" not in TERMS
    load_shipped(shipped)
    assert [file.name for file in loaded()] == ["my_study.py", "other.py"]
    for name, (params, key) in wanted.items():
        assert TrialConfig.from_params(params).key == key, name
    assert {name: trial.key for name, trial in arms_of(tiny).items()} == {
        name: key for name, (_, key) in wanted.items()
    }


def test_a_worker_of_another_study_forgets_its_files() -> None:
    load(name="a.py")
    load_shipped([{"name": "b.py", "source": STUDY}])
    assert [file.name for file in loaded()] == ["b.py"]


# ---------------------------------------------------------------- what is refused


def test_a_file_that_python_cannot_run(tmp_path: Path) -> None:
    for source, message in {
        "x = 1\ndef f(:\n": r"my_study.py:2: invalid syntax",
        "x = 1\n\nreturn 2\n": r"my_study.py:3: 'return' outside function",
        "x = 1\ny = x / 0\n": r"my_study.py:2: ZeroDivisionError: division by zero",
        "def f():\n    raise KeyError('k')\n\nf()\n": r"my_study.py:2: KeyError: 'k'",
        "import no_such_package\n": r"my_study.py:1: ModuleNotFoundError: No module named 'no_such_package'",
        "raise ValueError('first\\nsecond')": r"my_study.py:1: ValueError: first",
        "x = 1\nexit(3)": r"my_study.py:2: SystemExit: 3",
        "x = '\0'": r"my_study.py: source code string cannot contain null bytes",
    }.items():
        with pytest.raises(ExtensionError, match=f"^{message}$"):
            load(source)
    assert loaded() == []
    path = tmp_path / "my_study.py"
    path.write_bytes(b"x = '\xff'")
    with pytest.raises(ExtensionError, match=rf"^{path} cannot be read: 'utf-8' codec"):
        load_file(path)
    path.write_bytes(b"\xef\xbb\xbfx = 1\r\n")  # as editors on Windows write it
    assert load_file(path).module.x == 1
    with pytest.raises(
        ExtensionError, match=rf"^{tmp_path}/my_studdy.py: no such file \(did you mean 'my_study.py'\?\)$"
    ):
        load_file(tmp_path / "my_studdy.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@term\ndef vicreg(z1): ...", "term 'vicreg' exists already; allowed: another name"),
        (
            "@augmentation\ndef hflip(images): ...",
            "augmentation 'hflip' exists already; allowed: another name",
        ),
        ("@backbone\ndef vgg16(feature_dim): ...", "backbone 'vgg16' exists already; allowed: another name"),
        ("@metric\ndef test_acc(logits): ...", "metric 'test_acc' exists already; allowed: another name"),
        ("@term\ndef siamese(z1): ...", "term 'siamese' exists already; allowed: another name"),
        ("@term\ndef loss(z1): ...", "term 'loss' exists already; allowed: another name"),
        ("@augmentation\ndef none(images): ...", "augmentation 'none' exists already; allowed: another name"),
        (
            "@term\ndef Cosine(z1): ...",
            "term 'Cosine' is no name here; allowed: lower-case letters, digits and _, a letter first",
        ),
        (
            "@term\ndef cosine(z1, x2): ...",
            f"term 'cosine' takes 'x2'; allowed: {', '.join(TERM_INPUTS)}",
        ),
        (
            "@term\ndef cosine(scale=1): ...",
            f"term 'cosine' takes nothing; allowed: {', '.join(TERM_INPUTS)}; required: one of them at least",
        ),
        (
            "@metric\ndef mine(logit): ...",
            f"metric 'mine' takes 'logit' (did you mean 'logits'?); allowed: {', '.join(METRIC_INPUTS)}",
        ),
        (
            "@augmentation\ndef fade(image): ...",
            "augmentation 'fade' takes 'image' (did you mean 'images'?); allowed: images, u",
        ),
        (
            "@augmentation\ndef fade(u): ...",
            "augmentation 'fade' takes u; allowed: images, u; required: images",
        ),
        (
            "@backbone\ndef tiny(): ...",
            "backbone 'tiny' takes nothing; allowed: feature_dim; required: feature_dim",
        ),
        (
            "@term\ndef cosine(*z): ...",
            f"term 'cosine' takes 'z'; allowed: {', '.join(TERM_INPUTS)}",
        ),
    ],
)
def test_a_function_that_cannot_be_what_it_is_marked_as(source: str, message: str) -> None:
    source = f"from trainables.extensions import augmentation, backbone, metric, term\n\n\n{source}"
    with pytest.raises(ExtensionError, match=f"^my_study.py:5: {re.escape(message)}$"):
        load(source)
    assert not functions


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("@augmentation(p=2)", "p: got 2; allowed: a number from 0 to 1"),
        ("@augmentation(p='often')", "p: got 'often'; allowed: a number from 0 to 1"),
        ("@augmentation(numbers=0)", "numbers: got 0; allowed: an integer >= 1"),
        ("@metric(unit='percent')", "unit: got 'percent'; allowed: '%', ''"),
        ("@metric(better='more')", "better: got 'more'; allowed: 'higher', 'lower', ''"),
        ("@term(title=1)", "title: got 1; allowed: a text"),
        ("@term('Mine')", "@term: got 'Mine'; allowed: a function, and options by name, such as title=…"),
    ],
)
def test_options_that_are_not_allowed(mark: str, message: str) -> None:
    source = f"from trainables.extensions import augmentation, metric, term\n\n\n{mark}\ndef mine(z1): ..."
    with pytest.raises(ExtensionError, match=f"^my_study.py:4: {re.escape(message)}$"):
        load(source)


def test_a_function_may_have_other_decorators() -> None:
    source = edited(
        ("@term\ndef cosine", "@term\n@torch.no_grad()\ndef cosine"),
        ("@term\ndef distance", "@functools.cache\n@term\ndef distance"),
        ("import torch\n", "import functools\n\nimport torch\n"),
    )
    assert [item.name for item in load(source).items] == [item.name for item in load().items]
    assert code(source) != code(STUDY)
    assert code(source, "distance") != code(STUDY, "distance")
    lines = source.splitlines()
    assert all(lines[item.line - 1].startswith(f"def {item.name}(") for item in load(source).items)


def test_what_cannot_be_marked_or_listed() -> None:
    head = "from trainables.extensions import backbone, term\n"
    nowhere = "is not a function at the top level of the file"
    inner = "def make():\n    def mine(z1): ...\n    return term(mine)\nother = make()"
    for source, message in {
        "@backbone\nclass Wide: ...": "2: @backbone: got the class Wide; allowed: a function, and options by"
        " name, such as title=…",
        "import functools\nmine = term(functools.partial(max))": "3: @term: got functools.partial(<built-in"
        " function max>); allowed: a function, and options by name, such as title=…",
        "mine = term(lambda z1, z2: z1)": f"term '<lambda>' {nowhere}",
        inner: f"term 'mine' {nowhere}",
        "TERMS = ['cosine']": "2: TERMS has 'cosine'; allowed: functions",
        "def mine(z1): ...\nTERMS = {'mine': mine}": "3: TERMS is of type dict; allowed: a list of functions",
        "@backbone\ndef net(feature_dim): ...\nTERMS = [net]": "4: TERMS has 'net'; it is a backbone already",
    }.items():
        with pytest.raises(ExtensionError, match=f"^my_study.py: ?{re.escape(message)}$"):
            load(head + source)


def test_a_name_in_two_files() -> None:
    load(name="a.py")
    with pytest.raises(
        ExtensionError, match=r"^b.py:23: term 'cosine' exists already in a.py; allowed: another name$"
    ):
        load(name="b.py")
    assert [file.name for file in loaded()] == ["a.py"]


def test_files_beside_it_are_not_on_other_machines(tmp_path: Path) -> None:
    (tmp_path / "losses.py").touch()
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/net.py").touch()
    (tmp_path / "torch").mkdir()  # installed is installed
    (tmp_path / "torch/mine.py").touch()
    (tmp_path / "random.py").touch()
    path = tmp_path / "my_study.py"
    end = (
        " and would be missing on other machines; allowed: one file that has all it needs, and installed"
        " packages"
    )
    for statement, what in {
        "import losses": "'losses', which lies beside this file",
        "import math, losses as mine": "'losses', which lies beside this file",
        "from losses import cosine": "'losses', which lies beside this file",
        "from parts.net import Net": "'parts', which lies beside this file",
        "from . import losses": "something beside this file",
        "from .losses import cosine": "something beside this file",
        "def f(): import losses": "'losses', which lies beside this file",
    }.items():
        path.write_text(f"import random, torch\n{statement}\n")
        with pytest.raises(ExtensionError, match=f"^my_study.py:2: imports {what}{end}$"):
            load_file(path)
    path.write_text("import random, torch\nimport search_spaces, trainables.trial\n")
    assert load_file(path).items == ()


def test_a_package_in_development_may_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed, it may be on other machines, too; if Python only happens to find it, it is not."""
    (tmp_path / "own_lab").mkdir()
    (tmp_path / "own_lab/__init__.py").write_text("NAME = 'lab'\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "my_study.py"
    path.write_text("import own_lab\n")
    with pytest.raises(
        ExtensionError, match=r"^my_study.py:1: imports 'own_lab', which lies beside this file"
    ):
        load_file(path)
    (tmp_path / "own_lab-1.0.dist-info").mkdir()
    (tmp_path / "own_lab-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: own_lab\nVersion: 1\n"
    )
    assert load_file(path).module.own_lab.NAME == "lab"
    monkeypatch.delitem(sys.modules, "own_lab")


# ---------------------------------------------------------------- spaces in a file


def test_files_are_named_from_here_or_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/my-study.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path / "sub")
    for text in ("my-study.py", "my-study.py:one_by_one", "./my-study.py:", "../sub/my-study.py"):
        assert resolved(text) == "my-study.one_by_one"
    assert resolved("my-study.one_by_one,quickstart") == "my-study.one_by_one,quickstart"
    assert len(loaded()) == 1
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved("quickstart,~/sub/my-study.py") == "quickstart,my-study.one_by_one"


def test_a_space_is_not_named_as_its_report_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_study.py").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    hint = "(did you mean 'my_study.py:one_by_one'?)"
    message = f"--space: got 'my_study.one_by_one' {hint}; allowed: the file's name"
    with pytest.raises(ExtensionError, match=f"^{re.escape(message)}$"):
        resolved("quickstart,my_study.one_by_one")


def test_several_files_and_a_space_of_the_project(tmp_path: Path) -> None:
    """Trials of both files and of a built-in space are one study."""
    a, b = tmp_path / "a.py", tmp_path / "b.py"
    a.write_text(STUDY)
    plain = "from search_spaces import SPACES\n\n\ndef more():\n    return SPACES['quickstart']()[:3]\n"
    b.write_text(plain + "\ndef unused():\n    raise AssertionError\n")
    name = resolved(f"{a}:one_by_one,{b}:more,quickstart")
    assert name == "a.one_by_one,b.more,quickstart"
    found = select(name)
    assert found.space == "a.one_by_one+b.more+quickstart"
    assert len(found.trials) == 12 + 12
    assert found.steps[:2] == (
        "a.py: " + ", ".join(f"{i.kind} {i.name} ({i.code})" for i in loaded()[0].items),
        "b.py: no term, augmentation, backbone or metric",
    )
    assert {found.space_of(trial) for trial in found.trials} == {"a.one_by_one", "b.more", "quickstart"}
    other = tmp_path / "other" / "a.py"
    other.parent.mkdir()
    other.write_text(plain)
    with pytest.raises(
        ExtensionError, match=rf"^--space: got '{a}' and '{other}'; allowed: files of different names$"
    ):
        resolved(f"{a}:one_by_one,{other}:more")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return product(seed=range(2))",
            "5: mine() returned a list with dict; allowed: trials, as trials(",
        ),
        (
            "return SPACES['quickstart']()[:1] + [3]",
            "5: mine() returned a list with int; allowed: trials, as",
        ),
        (
            "product(seed=range(2))",
            "5: mine() returned nothing; allowed: trials, as trials(product(…), …) makes them",
        ),
        ("return 'quickstart'", "5: mine() returned a str; allowed: trials"),
        ("return []", "5: mine() returned no trials; allowed: one at least"),
        ("x = 1\n    return 1 / 0", "7: ZeroDivisionError: division by zero"),
        (
            "return trials([{'seed': 0, 'method': 'c'}], dataset='digits', backbone='vgg', augmentations='')",
            "6: method: got 'c' (did you mean 'ce'?); allowed: ce, siamese",
        ),
        ("return product(seeds=range(2))", "6: unknown field 'seeds' (did you mean 'seed'?); allowed: "),
    ],
)
def test_a_function_that_is_no_space(tmp_path: Path, body: str, message: str) -> None:
    path = tmp_path / "my_study.py"
    path.write_text(f"from search_spaces import SPACES, product, trials\n\n\n\ndef mine():\n    {body}\n")
    with pytest.raises(ExtensionError, match=f"^my_study.py:{re.escape(message)}"):
        resolved(f"{path}:mine")


def test_a_space_that_a_file_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "my_study.py"
    path.write_text(STUDY)
    for name, hint in {
        "one_by_on": " (did you mean 'one_by_one'?)",
        "cosine": "",
        "a-b": "",
        "mean_distance": "",
    }.items():
        with pytest.raises(
            ExtensionError,
            match=rf"^--space: got '{path}:{name}'{re.escape(hint)}; allowed: my_study.py:one_by_one$",
        ):
            resolved(f"{path}:{name}")
    path.write_text("def helper(x):\n    return x\n")
    with pytest.raises(ExtensionError, match=r"; allowed: none: it has no function without arguments$"):
        resolved(str(path))
    path = tmp_path / "2nd.py"
    path.touch()
    with pytest.raises(
        ExtensionError,
        match=r"^--space: got '2nd.py'; allowed: letters, digits, _ and - before .py, a letter or _ first$",
    ):
        resolved(str(path))


def test_own_terms_are_compared_with_the_baselines_and_not_with_themselves(tiny: Tiny) -> None:
    load()
    arms = {t.arm: t for t in (tiny(method="ce"), tiny(gamma=0), tiny(term="cosine"), tiny(term="distance"))}
    compared = families(arms)
    own = {"cosine-0.01", "distance-0.01"}
    assert compared == {
        "ce": dict.fromkeys(["siamese-0", *sorted(own)], "ce"),
        "siamese-0": dict.fromkeys(sorted(own), "siamese-0"),
    }
