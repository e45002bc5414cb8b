"""Packages are listed by hand in pyproject.toml, and versions in constraints.txt: nothing may be forgotten."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS = {ROOT / folder: package for package, folder in SETUPTOOLS["package-dir"].items()}
REQUIREMENTS = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()


def files() -> Iterator[Path]:
    """Every file that belongs to the installed package."""
    for folder in FOLDERS:
        for path in folder.rglob("*"):
            hidden = any(part.startswith(".") for part in path.relative_to(ROOT).parts)
            if path.is_file() and not hidden and "__pycache__" not in path.parts:
                yield path


def package_of(folder: Path) -> str:
    top = next(top for top in FOLDERS if folder.is_relative_to(top))
    return ".".join([FOLDERS[top], *folder.relative_to(top).parts])


def test_every_package_is_listed() -> None:
    found = {package_of(path.parent) for path in files() if path.name == "__init__.py"}
    listed = set(SETUPTOOLS["packages"])
    assert found - listed == set(), "add to tool.setuptools.packages in pyproject.toml"
    assert listed - found == set(), "listed in pyproject.toml, but there is no __init__.py"


def test_every_module_is_in_a_package() -> None:
    lost = [
        str(path) for path in files() if path.suffix == ".py" and not (path.parent / "__init__.py").exists()
    ]
    assert lost == [], "these folders need an __init__.py to be installed"


def test_every_data_file_is_installed() -> None:
    patterns = [PurePath(pattern).name for pattern in SETUPTOOLS["package-data"]["*"]]
    lost = [
        str(path)
        for path in files()
        if path.suffix != ".py" and not any(path.match(pattern) for pattern in patterns)
    ]
    assert lost == [], "add their suffix to tool.setuptools.package-data in pyproject.toml"


@pytest.mark.parametrize("requirement", [Requirement(it) for it in REQUIREMENTS], ids=lambda it: it.name)
def test_the_pinned_version_is_in_the_range(requirement: Requirement) -> None:
    pins = dict(line.split("==") for line in CONSTRAINTS.splitlines() if "==" in line)
    pinned = {canonicalize_name(name): version for name, version in pins.items()}
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_constraints_name_no_host_and_no_build() -> None:
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
