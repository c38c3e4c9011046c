"""Each trial can be traced to the code that trained it."""

import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from study.session import code_version as module
from study.session.code_version import CodeVersion


def git(folder: Path, *arguments: str, given: bytes = b"") -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, input=given).stdout.decode()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project in git, in whose place this one is asked for its version."""
    folder = tmp_path / "checkout"
    (folder / "trainables/deep").mkdir(parents=True)
    (folder / "trainables/train.py").write_text("lr = 1\n")
    (folder / "trainables/deep/old.py").write_text("x = 1\n")
    (folder / "pyproject.toml").write_text("[project]\n")
    (folder / ".gitignore").write_text("*.pyc\n")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(module, "ROOT", folder)
    return folder


def version() -> CodeVersion:
    return module.code_version.__wrapped__()


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    found = version()
    assert found.tags["git.commit"] == git(checkout, "rev-parse", "HEAD").strip()
    assert found.tags["git.dirty"] == "false"
    assert "source.kept" not in found.tags
    assert [name for name in found.files if name.startswith("code-")] == []


def test_the_patch_of_a_changed_checkout_gives_its_code(checkout: Path, tmp_path: Path) -> None:
    clean = tmp_path / "clean"
    shutil.copytree(checkout, clean)
    (checkout / "trainables/train.py").write_text("lr = 2  # tried\n")
    (checkout / "trainables/deep/old.py").unlink()
    (checkout / "trainables/deep/new.py").write_bytes("größer = '\u03b3'\r\n".encode())
    (checkout / "trainables/deep/x.pyc").write_bytes(b"\0")
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    git(checkout, "add", "pyproject.toml")  # staged or not
    (checkout / "images.bin").write_bytes(b"\0" * 1000)
    before = git(checkout, "status", "--porcelain"), sorted(checkout.rglob("*"))
    found = version()
    assert (git(checkout, "status", "--porcelain"), sorted(checkout.rglob("*"))) == before
    patch = found.files[found.tags["source.kept"]]
    assert found.tags["git.dirty"] == "true"
    git(clean, "apply", "-", given=patch)
    for name in ("trainables", "pyproject.toml"):
        changed = {path.relative_to(checkout) for path in (checkout / name).rglob("*.py")}
        assert changed == {path.relative_to(clean) for path in (clean / name).rglob("*.py")}
        assert all((checkout / path).read_bytes() == (clean / path).read_bytes() for path in changed)
    assert not (clean / "images.bin").exists()
    assert version() == found  # the same changes have the same name


def test_an_installed_package_keeps_its_source(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    found = version()
    assert "git.commit" not in found.tags
    with zipfile.ZipFile(io.BytesIO(found.files[found.tags["source.kept"]])) as archive:
        assert archive.namelist() == ["trainables/deep/old.py", "trainables/train.py"]
        assert archive.read("trainables/train.py") == b"lr = 1\n"
    assert version() == found


def test_what_is_too_large_is_not_kept(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 10)
    (checkout / "trainables/train.py").write_text("lr = 2\n")
    found = version()
    assert found.tags["git.dirty"] == "true"
    assert "source.kept" not in found.tags


def test_packages_are_listed(checkout: Path) -> None:
    found = version()
    lines = found.files[found.tags["environment"]].decode().splitlines()
    assert lines[0].startswith("# Python 3.")
    assert any(line.startswith("torch==") for line in lines)
