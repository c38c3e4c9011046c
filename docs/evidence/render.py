"""Render what lies here from the study's archive: `python docs/evidence/render.py [FOLDER]`.

`study.zip` beside this file has all trials of the spaces `evidence` and `evidence_tuning` (`study/export.py
--lean`). Writes into FOLDER, by default beside this file: `report/` (page, tables, figures, `trials.parquet`,
and the protocol's sentences), and `tuning/` (`trials.parquet`, and what was tried and chosen).
Beside this file, it also computes the numbers anew that the README here and that of the project have
(`pages.py`).
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from trainables.command_line import CommandLine, path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LOOK: Sequence[str] = ()
"""Options of a look at seeds that all cells have: their number, if it is not the space's own, which is three.

The archive may have trials of later seeds. The range that was declared is recorded with each trial."""


def main(folder: Path = HERE, archive: Path = HERE / "study.zip") -> None:
    """Render the archive into a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch)
        _run(where, "study/merge.py", str(archive.resolve()), "--output", "runs")
        for script, space, options in (("report", "evidence", LOOK), ("tables", "evidence_tuning", ())):
            words = ("--space", space, *options, "--output", "runs", "--out", space)
            _run(where, f"analysis/{script}.py", *words)
        _run(where, "docs/evidence/verdicts.py", "evidence")
        _run(where, "docs/evidence/choices.py", "evidence_tuning")
        folder.mkdir(parents=True, exist_ok=True)
        (where / "evidence/.rendered").unlink(missing_ok=True)  # the next one has other figures to keep
        shutil.rmtree(folder / "report", ignore_errors=True)
        shutil.copytree(where / "evidence", folder / "report")
        (folder / "tuning").mkdir(exist_ok=True)
        for name in ("trials.parquet", "tries.csv", "tries.md"):
            shutil.copy(where / "evidence_tuning" / name, folder / "tuning")
        if folder.resolve() == HERE:
            _run(where, "docs/evidence/pages.py", str(HERE / "report"))


def _run(folder: Path, script: str, *arguments: str) -> None:
    """Run a script of the project; paths are relative to the folder, so that no page names a machine's."""
    command: Sequence[str] = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script}: {done.stderr.strip() or done.stdout.strip()}")


if __name__ == "__main__":
    parser = CommandLine(prog="render.py", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "folder", nargs="?", metavar="FOLDER", type=path, default=HERE, help="where (default: here)"
    )
    main(parser.parse_args().folder)
