"""What a package says of itself and carries: the commit unless it is a release, and all that a deployment is made from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
RELEASE: Final = version("cardsync")
LEFT_OUT: Final = shutil.ignore_patterns(
    # Among them what other tests write meanwhile, and take away while it is copied.
    *(".git", ".venv", ".cardsync", ".hypothesis", "__pycache__", ".*_cache", "dist", "*.egg-info")
)


def _must(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    here = {"PYTHONPATH": str(path)} if path else {}
    answer = subprocess.run(
        arguments, cwd=cwd, env={**os.environ, **here}, capture_output=True, text=True, check=False, timeout=900
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout.strip()


def _git(cwd: Path, *arguments: str) -> str:
    return _must("git", "-c", "user.name=a", "-c", "user.email=a@example.test", *arguments, cwd=cwd)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one commit."""
    made = tmp_path / "checkout"
    shutil.copytree(ROOT, made, ignore=LEFT_OUT)
    _git(made, "init", "-q")
    _git(made, "add", "-A")
    _git(made, "commit", "-q", "-m", "All of it")
    return made


def _built(root: Path, kind: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    _must(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder), cwd=root)
    (found,) = folder.iterdir()
    return found


def _unpacked(sdist: Path, folder: Path) -> Path:
    with tarfile.open(sdist) as packed:
        packed.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


def _said_by(path: Path) -> str:
    return _must(sys.executable, "-m", "cardsync", "--version", cwd=Path("/"), path=path)


def _said_by_packages(checkout: Path, folder: Path) -> list[str]:
    """What a wheel from the checkout says, an unpacked source distribution, and a wheel that is built from it."""
    source = _unpacked(_built(checkout, "sdist", folder / "sdist"), folder / "source")
    said = [_said_by(source)]
    for number, root in enumerate((checkout, source)):
        unpacked = folder / f"unpacked-{number}"
        with zipfile.ZipFile(_built(root, "wheel", folder / f"wheel-{number}")) as packed:
            packed.extractall(unpacked)  # noqa: S202  (our own, just built)
        said.append(_said_by(unpacked))
    return said


def test_a_checkout_and_what_is_built_from_it_name_the_commit_until_it_is_released(
    checkout: Path, tmp_path: Path
) -> None:
    commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
    named = f"cardsync {RELEASE}+g{commit}"
    assert [_said_by(checkout), *_said_by_packages(checkout, tmp_path / "before")] == [named] * 4
    _git(checkout, "tag", f"v{RELEASE}")
    released = [_said_by(checkout), *_said_by_packages(checkout, tmp_path / "after")]
    assert released == [f"cardsync {RELEASE}"] * 4


def test_a_source_distribution_carries_what_a_deployment_is_made_from(checkout: Path, tmp_path: Path) -> None:
    source = _unpacked(_built(checkout, "sdist", tmp_path / "sdist"), tmp_path / "source")
    wanted = _git(checkout, "ls-files", "deploy", "docker-compose.yml", "Dockerfile", "hatch_build.py").splitlines()
    assert len(wanted) > 10
    assert [name for name in wanted if not (source / name).is_file()] == []
