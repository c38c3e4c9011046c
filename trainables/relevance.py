"""In which trials a field matters, as rules; and what a consistency term cannot be trained with.

Trials are anything with the fields of `TrialConfig`, which is made of these rules. Standard library only.
"""

from typing import Any

from trainables.catalogue import TARGETED, TERMS, code_of, has_unlabelled
from trainables.setting import Rule

SIAMESE = ("siamese", "unsupervised")
"""Methods whose two views are both augmented by the trial's subset, and that a term of `TERMS` compares."""


def two_views(trial: Any) -> bool:
    """Whether two views of each image are trained on."""
    return trial.method != "ce"


def has_term(trial: Any) -> bool:
    """Whether a consistency term, one of `TERMS`, is trained."""
    return trial.method in SIAMESE and bool(trial.gamma)


def own_parts(trial: Any) -> list[tuple[str, str]]:
    """Kind and name of the backbone and the augmentations of a trial that a file of your own defines."""
    parts = [("backbone", trial.backbone), *(("augmentation", name) for name in trial.augmentations)]
    return [part for part in parts if code_of(*part)]


def with_term(*terms: str) -> Rule:
    """Where one of these consistency terms is trained; without names, where any is."""
    names = " or ".join(TERMS[term].title for term in terms)
    return Rule(
        f"{names}, γ > 0" if terms else "γ > 0",
        lambda trial: has_term(trial) and (not terms or trial.term in terms),
    )


def with_need(need: str, title: str) -> Rule:
    """Where a consistency term is trained that needs this, one of `NEEDS`."""
    return Rule(
        f"a term with a {title}, γ > 0", lambda trial: has_term(trial) and need in TERMS[trial.term].needs
    )


WITH_PROJECTOR = with_need("z", "projector")
WITH_PREDICTOR = with_need("predictions", "predictor")
WITH_FIXMATCH = Rule("method fixmatch", lambda trial: trial.method == "fixmatch" and bool(trial.gamma))
WITH_TWO_VIEWS = Rule("two views", two_views)
WITH_A_CHOICE = Rule(
    "a part of the images",
    # Fields of the cell alone decide, so that all arms of a cell have the same data_seed.
    lambda trial: trial.train_size is not None or trial.val_fraction > 0 or has_unlabelled(trial.dataset),
)
WITH_DIFFERING_VIEWS = Rule(
    f"two views, with {' or '.join(TARGETED)}",
    lambda trial: trial.method in SIAMESE and not set(TARGETED).isdisjoint(trial.augmentations),
)
WITH_AUGMENTATION = Rule(
    "two views, augmented",
    lambda trial: trial.method in SIAMESE and bool(trial.augmentations),
)
WITH_OWN_TERM = Rule(
    "a term of your own", lambda trial: has_term(trial) and bool(code_of("term", trial.term))
)
WITH_OWN_PARTS = Rule("a backbone or augmentation of your own", lambda trial: bool(own_parts(trial)))
WITH_FLIPS = Rule("with hflip", lambda trial: "hflip" in trial.augmentations)


def check_term(trial: Any) -> None:
    """Raise ValueError for what a consistency term cannot be trained with."""
    if trial.method == "unsupervised":
        if not trial.gamma:
            raise ValueError(f"gamma: got {trial.gamma} with method 'unsupervised'; allowed: a number > 0")
        if not {"targets", "logits"}.isdisjoint(TERMS[trial.term].needs):
            allowed = [n for n, term in TERMS.items() if {"targets", "logits"}.isdisjoint(term.needs)]
            raise ValueError(
                f"term: got {trial.term!r}, which cannot be trained without labels; allowed with method"
                f" 'unsupervised': {', '.join(allowed)}"
            )
    if trial.method == "fixmatch" and set(TARGETED).isdisjoint(trial.augmentations):
        given = "+".join(trial.augmentations) or "none"
        raise ValueError(
            f"augmentations: got {given!r} with method 'fixmatch'; allowed: subsets with"
            f" {' or '.join(TARGETED)}, which make its strong view"
        )
    if has_term(trial) and trial.term == "wmse":
        size = trial.whitening_size or trial.batch_size
        if trial.batch_size % size:
            raise ValueError(
                f"whitening_size: got {size}; allowed: a divisor of batch_size, {trial.batch_size}"
            )
        if size <= trial.embedding_dim:
            raise ValueError(
                f"embedding_dim: got {trial.embedding_dim}; allowed for wmse: less than the {size} images"
                " that are whitened together (whitening_size, else batch_size)"
            )
