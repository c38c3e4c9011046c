"""Whether what your own files define works, tried on a few random numbers before anything starts.

Backbones are tried by `trainables.backbones`, at the size of the images. As a script it reads a JSON object
from standard input (`files`, see `OwnFile.shipped`) and prints what is wrong as JSON: the command line starts
it as a process where a file does not import PyTorch anyway.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from trainables.catalogue import AUGMENTATIONS
from trainables.extensions import METRIC_INPUTS, TERM_INPUTS, functions
from trainables.extensions.files import ExtensionError, Item, OwnFile, load_shipped, loaded
from trainables.extensions.signatures import inputs_of

ROOT = Path(__file__).resolve().parents[1]
IMAGES, SIZE, WIDTH, CLASSES = 16, 32, 8, 10
"""Of the random batch: images, their pixels, dimensions of features and embeddings, classes."""


def check() -> None:
    """Raise ExtensionError, with file and line, for a term, augmentation or metric that does not work."""
    tried = [item for file in loaded() for item in file.items if item.kind != "backbone"]
    if not tried:
        return
    if "torch" in sys.modules:
        wrong = what_is_wrong()
    else:
        command = [sys.executable, "-W", "ignore", "-m", "trainables.tried"]
        request = json.dumps({"files": [file.shipped for file in loaded()]})
        done = subprocess.run(command, cwd=ROOT, input=request, check=False, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ExtensionError(f"{loaded()[0].name} cannot be tried ({reason})")
        wrong = json.loads(done.stdout)
    if wrong:
        raise ExtensionError("; ".join(wrong))


def what_is_wrong() -> list[str]:
    """A line for each item of the loaded files that does not work."""
    import torch

    found = []
    for file in loaded():
        for item in file.items:
            if item.kind != "backbone":
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    found.append(_why_not(file, item))
    return [line for line in found if line]


def _why_not(file: OwnFile, item: Item) -> str | None:
    tries = {"term": _try_term, "augmentation": _try_augmentation, "metric": _try_metric}
    try:
        wrong = tries[item.kind](item.name)
    except Exception as error:  # whatever the function raises
        located = str(file.locate(error))
        return located if f"{file.name}:" in located else f"{file.name}:{item.line}: {located}"
    return f"{file.name}:{item.line}: {item.kind} {item.name!r} {wrong}" if wrong else None


def _try_term(name: str) -> str | None:
    import torch

    def tensor(given: str) -> Any:
        if given == "targets":
            return torch.arange(IMAGES) % CLASSES
        width = CLASSES if given.startswith("logits") else WIDTH
        return torch.randn(IMAGES, width, requires_grad=not given.startswith("t"))

    given = {name: tensor(name) for name in inputs_of(functions["term", name], TERM_INPUTS)}
    value = functions["term", name](**given)
    if not isinstance(value, torch.Tensor) or value.shape != () or not value.is_floating_point():
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        return f"returned {got}; allowed: one number, a tensor of shape ()"
    if not value.requires_grad:
        return "returned a number without a gradient; allowed: one that depends on what it is given"
    value.backward()
    if not value.isfinite():
        return f"returned {value.item()} for random numbers; allowed: a finite number"
    return None


def _try_augmentation(name: str) -> str | None:
    import torch

    from trainables.augment import applied_own

    images = torch.rand(IMAGES, 3, SIZE, SIZE)
    numbers = torch.rand(IMAGES, AUGMENTATIONS[name].numbers)
    made = applied_own(name, images.clone(), numbers)
    if not made.is_floating_point() or not made.isfinite().all():
        return "returned values that are not finite numbers"
    alone = applied_own(name, images[:1].clone(), numbers[:1])
    if not torch.allclose(alone, made[:1], atol=1e-5):
        return "makes of an image what depends on the other images; allowed: each image by itself"
    return None


def _try_metric(name: str) -> str | None:
    import torch

    from trainables.own_metric import measure_own

    def tensor(given: str) -> torch.Tensor:
        if "labels" in given:
            return torch.arange(IMAGES) % CLASSES
        return torch.randn(IMAGES, CLASSES if given.startswith("logits") else WIDTH)

    measure_own(name, {given: partial(tensor, given) for given in METRIC_INPUTS})
    return None


def main() -> int:
    """Answer the request on standard input."""
    load_shipped(json.load(sys.stdin)["files"])
    print(json.dumps(what_is_wrong()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
