"""Whether what your own files define works, tried on a few random numbers before anything starts.

Backbones are tried by `trainables.backbones`, at the size of the images. As a script it reads a JSON object
from standard input (`files`, see `OwnFile.shipped`) and prints what is wrong as JSON: the command line starts
it as a process where a file does not import PyTorch anyway.
"""

import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from trainables.catalogue import AUGMENTATIONS
from trainables.datasets.splits import UNLABELLED
from trainables.extensions import METRIC_INPUTS
from trainables.extensions.files import ExtensionError, Item, OwnFile, load_shipped, loaded
from trainables.trial import TrialConfig

ROOT = Path(__file__).resolve().parents[1]
IMAGES, SIZE, WIDTH, CLASSES = 16, 32, 12, 10
"""Of the random batch: images, their pixels, dimensions of embeddings, classes."""
DRAWS = {
    "term": "draws random numbers of Python or NumPy; allowed: PyTorch's, which are set at each step",
    "augmentation": "draws random numbers itself; allowed: the parameter u, which has some",
    "metric": "draws random numbers; allowed: those of a generator with a seed of its own",
}


def check(trials: Iterable[TrialConfig] = ()) -> None:
    """Raise ExtensionError, with file and line, for a term, augmentation or metric that does not work.

    If `trials` have images without labels, terms are tried with some, too.
    """
    unlabelled = any(trial.unlabeled_size for trial in trials)
    tried = [item for file in loaded() for item in file.items if item.kind != "backbone"]
    if not tried:
        return
    if "torch" in sys.modules:
        wrong = what_is_wrong(unlabelled=unlabelled)
    else:
        command = [sys.executable, "-W", "ignore", "-m", "trainables.tried"]
        request = json.dumps({"files": [file.shipped for file in loaded()], "unlabelled": unlabelled})
        done = subprocess.run(command, cwd=ROOT, input=request, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ExtensionError(f"{loaded()[0].name} cannot be tried ({reason})")
        wrong = json.loads(done.stdout)
    if wrong:
        raise ExtensionError("; ".join(wrong))


def what_is_wrong(*, unlabelled: bool = False) -> list[str]:
    """A line for each item of the loaded files that does not work, also with images without labels."""
    import torch

    found = []
    for file in loaded():
        for item in file.items:
            if item.kind != "backbone":
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    found.append(_why_not(file, item, unlabelled=unlabelled))
    return [line for line in found if line]


def _why_not(file: OwnFile, item: Item, *, unlabelled: bool) -> str | None:
    tries: dict[str, Callable[[str], str | None]] = {
        "term": partial(_try_term, unlabelled=unlabelled),
        "augmentation": _try_augmentation,
        "metric": _try_metric,
    }
    before = _generators(item)
    try:
        wrong = tries[item.kind](item.name)
    except Exception as error:  # whatever the function raises
        return str(file.locate(error, item.line))
    if not wrong and _generators(item) != before:
        wrong = DRAWS[item.kind]
    return str(file.error(item.line, f"{item.kind} {item.name!r} {wrong}")) if wrong else None


def _generators(item: Item) -> list[Any]:
    """The states of the random generators that a function of this kind must not draw from."""
    import numpy as np
    import torch

    legacy = np.random.get_state(legacy=False)  # noqa: NPY002  # whoever draws from it
    states = [random.getstate(), str(legacy)]
    # PyTorch's is set before each step, after the views are drawn: what a term draws can be drawn again.
    return states if item.kind == "term" else [*states, torch.get_rng_state().tolist()]


def _normal(*shape: int) -> Any:
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _try_term(name: str, *, unlabelled: bool) -> str | None:
    import torch

    from trainables.methods.own import own_loss
    from trainables.methods.term import Branches

    def pair(width: int, *, trained: bool = True) -> Any:
        both = _normal(2, IMAGES, width)
        return both[0].clone().requires_grad_(trained), both[1].clone().requires_grad_(trained)

    logits, h, z, predictions = pair(CLASSES), pair(WIDTH + 1), pair(WIDTH), pair(WIDTH)
    targets = torch.arange(IMAGES) % CLASSES
    if unlabelled:
        targets[::4] = UNLABELLED
    branches = Branches(targets, logits, h, z, predictions, pair(WIDTH, trained=False))
    value = own_loss(name, branches)
    if not value.isfinite():
        return f"returned {value.item()} for random numbers; allowed: a finite number"
    if not value.requires_grad:
        return "returned a number without a gradient; allowed: one that depends on what it is given"
    value.backward()
    gradients = [given.grad for given in (*logits, *h, *z, *predictions) if given.grad is not None]
    if not all(gradient.isfinite().all() for gradient in gradients):
        return "has a gradient that is not finite for random numbers"
    return None


def _try_augmentation(name: str) -> str | None:
    import torch

    from trainables.augment import applied_own

    generator = torch.Generator().manual_seed(0)
    images = torch.rand(IMAGES, 3, SIZE, SIZE, generator=generator)
    numbers = torch.rand(IMAGES, AUGMENTATIONS[name].numbers, generator=generator)
    given = images.clone()
    made = applied_own(name, given, numbers)
    if not torch.equal(given, images):
        return "changes the images that it is given; allowed: returning new ones"
    if made.dtype != images.dtype:
        return f"returned {made.dtype}; allowed: {images.dtype}"
    if not made.isfinite().all():
        return "returned values that are not finite; allowed: finite numbers"
    again = applied_own(name, images, numbers)
    if not torch.equal(again, made):
        return DRAWS["augmentation"]
    alone = applied_own(name, images[:1], numbers[:1])
    if not torch.allclose(alone, made[:1], atol=1e-5):
        return "makes of an image what depends on the other images; allowed: each image by itself"
    return None


def _try_metric(name: str) -> str | None:
    import torch

    from trainables.own_metric import measure_own

    classes = torch.arange(IMAGES) % CLASSES
    widths = {"logits": CLASSES, "h": WIDTH + 1, "z": WIDTH}
    inputs = {
        given: (lambda: classes)
        if "labels" in given
        else partial(_normal, IMAGES, widths[given.rstrip("12")])
        for given in METRIC_INPUTS
    }
    measure_own(name, inputs)
    return None


def main() -> int:
    """Answer the request on standard input."""
    with contextlib.redirect_stdout(sys.stderr):  # what a file prints is no part of the answer
        request = json.load(sys.stdin)
        load_shipped(request["files"])
        wrong = what_is_wrong(unlabelled=request["unlabelled"])
    print(json.dumps(wrong))
    return 0


if __name__ == "__main__":
    sys.exit(main())
