"""How far apart the colours of classes are for readers with normal and deficient colour vision, and in grey.

    python benchmarks/class_colours.py [--search SECONDS] [--grey 3] [--seed 0]

Prints the least difference between any two colours of `CLASS_COLOURS` and of matplotlib's sequences of ten:
in CIEDE2000 as seen, and in lightness L* where a printer makes them grey. With `--search` it looks for ten
better ones by simulated annealing.

Colour-vision deficiencies are simulated after Machado, Oliveira & Fernandes (2009), "A Physiologically-based
Model for Simulation of Color Vision Deficiency", at full severity. Differences are those of Sharma, Wu &
Dalal (2005), "The CIEDE2000 Color-Difference Formula".
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_hex, to_rgb

from analysis.plots.classes import CLASS_COLOURS

Colours = npt.NDArray[np.float64]
DEFICIENT = {
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
"""Machado et al.'s matrices on linear sRGB, severity 1."""
READERS = ("normal", *DEFICIENT)
TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
"""From linear sRGB (IEC 61966-2-1)."""
WHITE = (0.95047, 1.0, 1.08883)
"""D65."""
DARKEST, LIGHTEST, PALEST = 26, 82, 25
"""L* that a class may have on white paper, and its least chroma: no two greys."""


def as_seen(rgb: Colours, reader: str) -> Colours:
    """CIELAB (n, 3) of sRGB colours (n, 3) in 0–1 as one of `READERS` sees them."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if reader != "normal":
        linear = np.clip(linear @ np.array(DEFICIENT[reader]).T, 0, 1)
    t = linear @ np.array(TO_XYZ).T / WHITE
    x, y, z = np.moveaxis(np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(one: Colours, other: Colours) -> Colours:
    """The differences (n,) of CIELAB colours (n, 3)."""
    (l1, a1, b1), (l2, a2, b2) = np.moveaxis(one, -1, 0), np.moveaxis(other, -1, 0)
    seventh = ((np.hypot(a1, b1) + np.hypot(a2, b2)) / 2) ** 7
    stretch = 1.5 - 0.5 * np.sqrt(seventh / (seventh + 25.0**7))
    a1, a2 = stretch * a1, stretch * a2
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.arctan2(b1, a1), np.arctan2(b2, a2)
    turn = np.where(c1 * c2 == 0, 0, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi)
    hue = np.where(c1 * c2 == 0, h1 + h2, h1 + turn / 2) % (2 * np.pi)
    light, chroma = (l1 + l2) / 2, (c1 + c2) / 2
    t = 1 - 0.17 * np.cos(hue - np.pi / 6) + 0.24 * np.cos(2 * hue)
    t += 0.32 * np.cos(3 * hue + np.deg2rad(6)) - 0.2 * np.cos(4 * hue - np.deg2rad(63))
    dl = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    dc = (c2 - c1) / (1 + 0.045 * chroma)
    dh = 2 * np.sqrt(c1 * c2) * np.sin(turn / 2) / (1 + 0.015 * chroma * t)
    blue = np.deg2rad(60) * np.exp(-(((np.rad2deg(hue) - 275) / 25) ** 2))
    mixed = -2 * np.sqrt(chroma**7 / (chroma**7 + 25.0**7)) * np.sin(blue)
    return np.sqrt(dl**2 + dc**2 + dh**2 + mixed * dc * dh)


def least_differences(colours: Sequence[object]) -> dict[str, float]:
    """The least difference of any two colours: in CIEDE2000 by reader, and `grey`, in L*."""
    rgb = np.array([to_rgb(colour) for colour in colours])  # type: ignore[arg-type]
    first, second = np.triu_indices(len(rgb), 1)
    seen = {reader: as_seen(rgb, reader) for reader in READERS}
    least = {reader: float(ciede2000(lab[first], lab[second]).min()) for reader, lab in seen.items()}
    return {**least, "grey": float(np.diff(np.sort(seen["normal"][:, 0])).min())}


def search(seconds: float, grey: float, seed: int) -> list[str]:
    """Ten colours that stay far apart for every reader, and by `grey` in L*, found in this time."""
    random, began = np.random.default_rng(seed), time.monotonic()
    now = best = random.uniform(size=(10, 3))
    value = most = _worth(now, grey)
    while (done := (time.monotonic() - began) / seconds) < 1:
        tried, one = now.copy(), random.integers(10)
        tried[one] = np.clip(now[one] + random.normal(size=3) * (0.25 * (1 - done) + 0.01), 0, 1)
        if random.random() < 0.1:
            tried[one] = random.uniform(size=3)
        worth = _worth(tried, grey)
        if worth > value or random.random() < np.exp((worth - value) / (2 * (1 - done) ** 2 + 0.01)):
            now, value = tried, worth
        if value > most:
            best, most = now, value
    return [to_hex(colour) for colour in _furthest_first(best)]


def _worth(rgb: Colours, grey: float) -> float:
    """The least difference, normal vision a quarter less, minus what breaks the limits."""
    least, lab = least_differences(list(map(tuple, rgb))), as_seen(rgb, "normal")
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    broken = max(0, DARKEST - light.min()) + max(0, light.max() - LIGHTEST) + max(0, PALEST - chroma.min())
    broken += 2 * max(0, grey - least["grey"])
    return float(min(0.75 * least["normal"], *(least[reader] for reader in DEFICIENT)) - broken)


def _furthest_first(rgb: Colours) -> Colours:
    """The colours in an order in which each is as far from all before it as any that is left."""
    seen = [as_seen(rgb, reader) for reader in READERS]
    apart = np.min([ciede2000(lab[:, None], lab[None]) for lab in seen], axis=0)
    order = [int(apart.max(0).argmax())]
    while len(order) < len(rgb):
        left = [i for i in range(len(rgb)) if i not in order]
        order.append(max(left, key=lambda i: apart[i, order].min()))
    return rgb[order]


def main() -> None:
    """Print the table, and colours that were searched for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--search", type=float, metavar="SECONDS")
    parser.add_argument("--grey", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sequences = {
        "CLASS_COLOURS": CLASS_COLOURS,
        **{n: mpl.color_sequences[n] for n in ("petroff10", "tab10")},
    }
    if args.search:
        found = search(args.search, args.grey, args.seed)
        print(found)
        sequences["found"] = tuple(found)
    print(f"{'':16}" + "".join(f"{name:>8}" for name in (*READERS, "grey")))
    for name, colours in sequences.items():
        print(f"{name:16}" + "".join(f"{value:8.1f}" for value in least_differences(colours).values()))


if __name__ == "__main__":
    main()
