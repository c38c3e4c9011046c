"""How often the images of a dataset lie in memory when four trials train on them at once (Linux).

    python benchmarks/shared_memory.py [--images 6000]

Images of noise, 96 x 96 pixels, in folders; four seeds of the small network, half a CPU each. While they
train, the kernel is asked of every process what it has mapped of the prepared images: `Rss` counts a page
once in each process that has touched it, `Pss` divides it by their number, so that its sum is what is really
in memory.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
AT_ONCE = 4


def main() -> None:
    """Run the study and print the largest sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=6000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder, "data", "noise"), args.images)
        command = [sys.executable, str(ROOT / "study/run.py"), "--space", "quickstart"]
        command += ["--only", "arm=siamese-0.01", "--seeds", str(AT_ONCE), "--no-report"]
        command += ["--set", "dataset=folder:noise@96", "--set", "train_size=none", "--set", "epochs=2"]
        command += ["--cpus-per-trial", "0.5"]
        study = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        most: tuple[int, dict[str, int]] = (0, {"Rss": 0, "Pss": 0})
        while study.poll() is None:
            found = mapped(folder)
            sums = {kind: sum(one[kind] for one in found) for kind in ("Rss", "Pss")}
            most = max(most, (len(found), sums), key=lambda one: (one[0], one[1]["Pss"]))
            time.sleep(0.5)
        size = sum(path.stat().st_size for path in Path(folder, "data").rglob("*.npy")) / 1e6
        if study.returncode:
            raise SystemExit(f"the study ended with {study.returncode}")
    processes, sums = most
    print(f"prepared images {size:.0f} MB, mapped by {processes} processes at once")
    really, touched = sums["Pss"] / 1000, sums["Rss"] / 1000
    print(f"in memory {really:.0f} MB (sum of Pss); with a copy each it would be {touched:.0f} MB (of Rss)")


def mapped(folder: str) -> list[dict[str, int]]:
    """Of each process that has prepared images in `folder` mapped: Rss and Pss of these, KB."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "smaps").read_text().splitlines()
        except OSError:
            continue
        sums, ours = {"Rss": 0, "Pss": 0}, False
        for line in lines:
            name, _, rest = line.partition(":")
            if "-" in line.split(" ")[0]:  # a mapping begins: its addresses, and its file at the end
                ours = folder in line and line.endswith(".npy")
            elif ours and name in sums:
                sums[name] += int(rest.split()[0])
        if sums["Rss"]:
            found.append(sums)
    return found


def write_noise(folder: Path, count: int) -> None:
    """Images of two classes, a few of them for testing."""
    random = np.random.default_rng(0)
    for i in range(count + 20):
        path = folder / ("train" if i < count else "test") / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (96, 96, 3), np.uint8)).save(path, compress_level=0)


if __name__ == "__main__":
    main()
