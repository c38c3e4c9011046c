"""What own files define, called: what it is given, and what is refused before anything starts."""

import io
import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainables import backbones, tried, tune, weights
from trainables.augment import Draws, augment, policies, policy
from trainables.catalogue import AUGMENTATIONS, TERMS
from trainables.evaluate import FAILED_METRICS
from trainables.extensions import METRIC_INPUTS, TERM_INPUTS, functions
from trainables.extensions.files import ExtensionError, load_shipped, load_source, loaded
from trainables.methods import needs_of, term_of
from trainables.methods.byol import ema_momentum
from trainables.methods.own import own_term
from trainables.methods.term import Branches
from trainables.models import build
from trainables.own_metric import measure_own
from trainables.train import train
from trainables.trial import TrialConfig

pytestmark = pytest.mark.usefixtures("own_files")
Tiny = Callable[..., TrialConfig]
HEAD = """import torch
from trainables.extensions import augmentation, backbone, metric, term


"""
B, K, D, M = 5, 3, 7, 4


def load(source: str) -> None:
    load_source("my_study.py", HEAD + source)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(width: int, seed: int) -> tuple[Tensor, Tensor]:
    first, second = normal(2, B, width, seed=seed)
    return first, second


BRANCHES = Branches(torch.arange(B) % K, pair(K, 1), pair(D, 2), pair(M, 3), pair(M, 4), pair(M, 5))
GIVEN = {
    "z1": BRANCHES.z[0],
    "z2": BRANCHES.z[1],
    "p1": BRANCHES.predictions[0],
    "p2": BRANCHES.predictions[1],
    "t1": BRANCHES.target_z[0],
    "t2": BRANCHES.target_z[1],
    "h1": BRANCHES.h[0],
    "h2": BRANCHES.h[1],
    "logits1": BRANCHES.logits[0],
    "logits2": BRANCHES.logits[1],
    "targets": BRANCHES.targets,
}


# ---------------------------------------------------------------- what a function is given


def test_every_input_of_a_term_is_what_it_is_called(tiny: Tiny) -> None:
    assert GIVEN.keys() == TERM_INPUTS.keys()
    parameters = ", ".join([*reversed(GIVEN), "scale=2.0"])
    body = "seen.update(locals())\n    return scale * z1.sum()"
    load(f"seen = {{}}\n@term\ndef mine({parameters}):\n    {body}")
    mine = own_term("mine")
    value = mine.loss(BRANCHES, tiny())
    assert value == 2 * BRANCHES.z[0].sum()
    seen = functions["term", "mine"].__globals__["seen"]
    assert seen.pop("scale") == 2.0
    assert seen.keys() == GIVEN.keys()
    for name, tensor in GIVEN.items():
        assert torch.equal(seen[name], tensor), name
    assert mine.column == "mine"
    assert set(TERMS["mine"].needs) == set(TERM_INPUTS.values())
    with pytest.raises(ValueError, match=r"^predictions: got none; required by this term$"):
        mine.loss(BRANCHES._replace(predictions=None), tiny())


@pytest.mark.parametrize(
    ("inputs", "needs", "has"),
    [
        ("z1, z2", {"z"}, (True, False, False)),
        ("p1, z2", {"z", "predictions"}, (True, True, False)),
        ("p1, t2", {"z", "predictions", "target_z"}, (True, True, True)),
        ("h1, h2", {"h"}, (False, False, False)),
        ("logits1, targets", {"logits", "targets"}, (False, False, False)),
    ],
)
def test_the_network_has_what_a_term_asks_for(
    tiny: Tiny, inputs: str, needs: set[str], has: tuple[bool, bool, bool]
) -> None:
    load(f"@term\ndef mine({inputs}):\n    return {inputs.partition(',')[0]}.mean()")
    config = tiny(term="mine")
    assert set(needs_of(config)) == needs
    net = build(config, 10)
    fields = ("embedding_dim", "predictor_dim", "target_momentum")
    assert tuple(config.uses(name) for name in fields) == has
    assert (net.predictor is not None, net.target is not None) == has[1:]


def test_a_target_network_follows_as_with_byol(tiny: Tiny) -> None:
    load("@term\ndef mine(p1, t2):\n    return (p1 - t2).mean()\n@term\ndef other(z1):\n    return z1.mean()")
    mine = term_of(tiny(term="mine"))
    assert mine is not None
    assert mine.target_momentum is not None
    for done in (0.0, 0.5, 1.0):
        assert mine.target_momentum(tiny(term="mine", target_momentum=0.75), done) == ema_momentum(0.75, done)
    assert own_term("other").target_momentum is None


def test_a_term_is_computed_in_fp32_whatever_the_autocast(tiny: Tiny) -> None:
    load("@term\ndef mine(z1, z2):\n    return (z1 @ z2.T).square().mean()")
    z1, z2 = (z.bfloat16() for z in BRANCHES.z)
    with torch.autocast("cpu", torch.bfloat16):
        value = own_term("mine").loss(BRANCHES._replace(z=(z1, z2)), tiny())
    assert value == (z1.float() @ z2.float().T).square().mean()


def test_every_input_of_a_metric_is_what_it_is_called() -> None:
    inputs = {name: normal(6, seed=i) for i, name in enumerate(METRIC_INPUTS)}
    for name, tensor in inputs.items():
        load(f"@metric\ndef mine({name}):\n    return {name}.sum()")
        others = dict.fromkeys(METRIC_INPUTS, partial(pytest.fail, "a pass that nobody needs"))
        assert measure_own("mine", {**others, name: partial(torch.clone, tensor)}) == tensor.sum().item()


@pytest.mark.parametrize(("value", "number"), [("3", 3.0), ("True", 1.0), ("logits.mean()", None)])
def test_a_metric_may_be_a_number_or_a_tensor(value: str, number: float | None) -> None:
    load(f"@metric\ndef mine(logits):\n    return {value}")
    logits = normal(4, 3)
    found = measure_own("mine", {"logits": lambda: logits})
    assert type(found) is float
    assert found == (logits.mean().item() if number is None else number)


def test_an_augmentation_happens_as_often_as_it_says_with_its_own_numbers(tiny: Tiny) -> None:
    load(
        "@augmentation(p=0.25, numbers=3)\ndef tint(u, images):\n    return images * u[:, :, None, None]\n"
        "@augmentation(p=1)\ndef invert(images):\n    return 1 - images"
    )
    config = tiny(augmentations=("tint", "rrc", "invert"))
    assert config.augmentations == ("rrc", "tint", "invert")  # after the built-in ones, as in the file
    assert (AUGMENTATIONS["tint"].numbers, AUGMENTATIONS["invert"].numbers) == (3, 0)
    stream = lambda name: torch.Generator().manual_seed(len(name))  # noqa: E731
    draws = Draws.sample(200, stream, ("tint", "invert"))
    x = torch.randint(256, (200, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    happens = draws.happens("tint", 0.25)
    assert 30 < happens.sum() < 70
    clean = x / 255
    tinted = torch.where(happens, clean * draws.added["tint"][:, 1:, None, None], clean)
    assert torch.equal(augment(x, policy(config, ("invert", "tint")), draws), 1 - tinted)
    assert policies(config)[0].p["tint"] == 0.25


def test_a_backbone_starts_from_the_seed_of_the_trial(tiny: Tiny) -> None:
    load(
        "@backbone\ndef pooled(feature_dim):\n"
        "    layers = torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, feature_dim)\n"
        "    return torch.nn.Sequential(*layers)"
    )
    trials = [tiny(backbone="pooled", seed=seed, gamma=gamma) for seed, gamma in ((0, 0), (0, 0.1), (1, 0.1))]
    nets = [build(trial, 10) for trial in trials]
    first, same, other = (net.backbone.state_dict() for net in nets)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    assert weights.size(tiny(backbone="pooled"), 10) > weights.size(tiny(backbone="pooled", gamma=0), 10)


# ---------------------------------------------------------------- tried before anything starts


def test_what_works_is_not_refused() -> None:
    load(
        "@term\ndef sliced(z1, z2):\n    return ((z1 - z2) @ torch.randn(z1.shape[1], 4)).square().mean()\n"
        "@augmentation\ndef blur(images, u):\n"
        "    return images.lerp(images.mean((2, 3), keepdim=True), u[:, :, None, None])\n"
        "@metric\ndef share(logits, labels):\n    return (logits.argmax(1) == labels).float().mean()\n"
        "@metric\ndef seeded(h):\n    return torch.rand(3, generator=torch.Generator().manual_seed(0)).sum()"
    )
    state = torch.get_rng_state()
    tried.check()
    assert torch.equal(torch.get_rng_state(), state)


HEADS = {"term": "z1, z2", "augmentation": "images, u", "metric": "logits"}
NUMBER = "allowed: one number, a tensor of shape ()"
STEPS = "draws random numbers of Python or NumPy; allowed: PyTorch's, which are set at each step"
SHAPE = "allowed: a tensor of shape (16, 3, 32, 32)"
ALONE = "makes of an image what depends on the other images; allowed: each image by itself"
ONE = "allowed: one finite number"
WRONG = {
    "term": {
        "return (z1 - z2).square().sum(1)": f"returned shape (16,); {NUMBER}",
        "return 3.0": f"returned float; {NUMBER}",
        "return z1.argmax()": f"returned torch.int64; {NUMBER}",
        "z1.mean()": f"returned NoneType; {NUMBER}",
        "return z1.detach().mean()": "returned a number without a gradient; allowed: one that depends on"
        " what it is given",
        "return z1.log().mean()": "returned nan for random numbers; allowed: a finite number",
        "return z1.mean() + (z1 - z1).square().sum().sqrt()": "has a gradient that is not finite for random"
        " numbers",
        "return z1.nothing()": "7: AttributeError: 'Tensor' object has no attribute 'nothing'",
        "import random; return z1.mean() * random.random()": STEPS,
        "import numpy as np; return z1.mean() * np.random.rand()": STEPS,
    },
    "augmentation": {
        "return images[:, :1]": f"returned (16, 1, 32, 32); {SHAPE}",
        "return None": f"returned NoneType; {SHAPE}",
        "return images.double()": "returned torch.float64; allowed: torch.float32",
        "return images / 0": "returned values that are not finite; allowed: finite numbers",
        "return images.mul_(0.5)": "changes the images that it is given; allowed: returning new ones",
        "return images + images.flip(0)": ALONE,
        "return images - images.mean()": ALONE,
        "return images * torch.rand(())": "draws random numbers itself; allowed: the parameter u, which has"
        " some",
        "return images * u": "7: RuntimeError: The size of tensor a (32) must match the size of tensor b (16)"
        " at non-singleton dimension 2",
    },
    "metric": {
        "return logits.amax(1)": f"returned shape (16,); {ONE}",
        "return float('inf')": f"returned inf; {ONE}",
        "return 'high'": f"returned 'high'; {ONE}",
        "return torch.rand(())": "draws random numbers; allowed: those of a generator with a seed of its own",
        "return logits.no_such_thing()": "7: AttributeError: 'Tensor' object has no attribute"
        " 'no_such_thing'",
    },
}
"""What is said of a body: of line 7, where it is, or of the function, which is in line 6."""


def defined(kind: str, body: str, name: str = "mine") -> str:
    return f"@{kind}\ndef {name}({HEADS[kind]}):\n    {body}\n"


@pytest.mark.parametrize(
    ("kind", "body"), [(kind, body) for kind, bodies in WRONG.items() for body in bodies]
)
def test_what_does_not_work_is_one_line(kind: str, body: str) -> None:
    load(defined(kind, body))
    with pytest.raises(ExtensionError) as error:
        tried.check()
    message = WRONG[kind][body]
    where = "my_study.py:" if message.startswith("7: ") else f"my_study.py:6: {kind} 'mine' "
    assert str(error.value) == where + message


def test_all_that_does_not_work_is_named_at_once() -> None:
    load(defined("term", "return z1") + defined("metric", "return logits", "other"))
    with pytest.raises(
        ExtensionError, match=r"^my_study.py:6: term 'mine' .*; my_study.py:9: metric 'other' r"
    ):
        tried.check()


@pytest.mark.parametrize("script", [tried, backbones, weights], ids=lambda script: script.__name__)
def test_what_a_file_prints_is_no_part_of_what_a_script_answers(
    script: types.ModuleType,
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = f"print('loading')\n{defined('term', 'print(1); return z1')}"
    net = POOLED.replace("WIDTH", "feature_dim")
    load(f"{source}@backbone\ndef pooled(feature_dim):\n    print('made')\n    return {net}\n")
    config = tiny(method="ce", gamma=None, backbone="pooled", feature_dim=7)
    asked, answer = {
        tried: ([], [f"my_study.py:7: term 'mine' returned shape (16, 12); {NUMBER}"]),
        backbones: ([("pooled", 7, 32)], [None]),
        weights: ([(config.to_params(), 10)], [4 * (7 * 3 + 7 + 10 * 7 + 10)]),
    }[script]
    request = {"asked": asked, "files": [file.shipped for file in loaded()], "unlabelled": False}
    load_shipped([])
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    assert script.main() == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_nothing_is_tried_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process is started"))
    tried.check()


POOLED = "torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, WIDTH))"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"return {POOLED.replace('WIDTH', 'feature_dim')}", None),
        (
            f"return {POOLED.replace('WIDTH', '7')}",
            "6: backbone 'mine' gives features of shape (2, 7) for 2 images; allowed: (2, 16)",
        ),
        (
            "return torch.nn.Conv2d(3, feature_dim, 3)",
            "6: backbone 'mine' gives features of shape (2, 16, 30, 30) for 2 images; allowed: (2, 16)",
        ),
        (
            "return 1 / 0",
            "7: ZeroDivisionError: division by zero (backbone 'mine', images of 32 x 32 pixels)",
        ),
        ("return torch.nn.Linear(9, 9)", "6: RuntimeError: "),
        (
            "return 3",
            "6: backbone 'mine' returned int; allowed: a torch.nn.Module (backbone 'mine', images",
        ),
    ],
)
def test_a_backbone_is_tried_at_the_size_of_the_images(body: str, message: str | None) -> None:
    load(f"@backbone\ndef mine(feature_dim):\n    {body}")
    found = backbones.why_unsupported("mine", 16, 32)
    assert (found is None) == (message is None)
    assert message is None or str(found).startswith(f"my_study.py:{message}")


def test_a_backbone_may_not_be_called_as_one_of_torchvision() -> None:
    load("@backbone\ndef resnet34(feature_dim):\n    return torch.nn.Flatten()")
    message = "my_study.py:6: backbone 'resnet34' exists already in torchvision; allowed: another name"
    assert backbones.why_unsupported("resnet34", 16, 32) == message


def test_a_trial_outlives_a_metric_that_fails(tiny: Tiny, data_dir: Path) -> None:
    """It ends without that metric, and says why."""
    functions = (
        "def broken(logits):",
        "    return logits.mean() / 0",
        "def whole(logits):",
        "    return 1.5",
    )
    load_source("own.py", "\n".join([*functions, "METRICS = [broken, whole]", ""]))
    result = train(tiny(method="ce", epochs=1), data_dir)
    assert [value for name, value in result.metrics.items() if name.startswith("whole-")] == [1.5]
    assert not [name for name in result.metrics if name.startswith("broken-")]
    said = result.artifacts[FAILED_METRICS].decode()
    assert re.fullmatch(r"broken-[0-9a-f]{8}: ValueError: metric 'broken' returned .*\n", said)


def test_a_term_meets_images_without_labels_before_a_study_with_some(tiny: Tiny) -> None:
    body = "return torch.nn.functional.cross_entropy(logits1, targets)"
    load(f"@term\ndef again(logits1, targets):\n    {body}\n")
    tried.check([tiny(term="again")])
    with pytest.raises(ExtensionError, match=r"^my_study\.py:7: IndexError: Target -1 is out of bounds\.$"):
        tried.check([tiny(term="again", dataset="stl10", unlabeled_size=100)])


def test_a_worker_with_other_code_trains_nothing(tiny: Tiny, tmp_path: Path) -> None:
    load("@term\ndef mine(z1, z2):\n    return (z1 - z2).abs().mean()\n")
    config = tiny(term="mine")
    request = {"cpu": 1.0, "gpu": 0.0}
    job = tune.job(config, data_dir=tmp_path, storage=str(tmp_path), tags={}, request=request)
    load("@term\ndef mine(z1, z2):\n    return 2 * (z1 - z2).abs().mean()\n")
    with pytest.raises(tune.UnfitError, match=rf": has other code than the driver for {config.term_code}$"):
        tune._trained(job)
