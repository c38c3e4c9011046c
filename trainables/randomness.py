"""Every draw of randomness comes from (seed, purpose, epoch, step): any step can be redone alone."""

import hashlib

import torch


def stream_seed(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> int:
    """The seed of one stream of random numbers, 0 <= value < 2**63."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, epoch: int = 0, step: int = 0) -> torch.Generator:
    """A CPU generator at the start of that stream: the same numbers whatever the training device."""
    return torch.Generator().manual_seed(stream_seed(seed, purpose, epoch, step))
