"""Nothing is imported that is not declared: a fresh environment has only what is declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions

from tests.house.sources import PACKAGES, ROOT, python_files, relative, tree

# Parts of a declared package that come under a name of their own.
COME_WITH = {
    "starlette": "fastapi",  # fastapi's own foundation, and part of its interface
    "grpc": "tritonclient",  # tritonclient[grpc]
    "google": "tritonclient",  # protobuf, through grpc
    "tritonclient": "tritonclient",
    "pydantic": "pydantic-settings",
    "triton_python_backend_utils": "nvidia-pytriton",  # these two: in the stub's environment
    "onnxruntime": "onnxruntime",
    "celery": "celery",  # these: of the extra `bench`, which the tests do without
    "redis": "redis",
    "matplotlib": "matplotlib",
}


def test_every_import_is_declared() -> None:
    names = packages_distributions()
    undeclared = sorted(
        f"{where}: {name}"
        for where, name in _imports()
        if not {_normal(each) for each in names.get(name, [])} & _declared()
        and COME_WITH.get(name) not in _declared()
    )
    assert not undeclared


def _imports() -> Iterator[tuple[str, str]]:
    for path in python_files():
        ours = {*PACKAGES, "tests", "benchmarks"}
        if "backends" in path.parts:  # Triton's stub finds what lies beside a backend
            ours |= {neighbour.stem for neighbour in path.parent.glob("*.py")}
        for node in ast.walk(tree(path)):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules = [node.module]
            for name in {module.split(".")[0] for module in modules}:
                if name not in ours and name not in sys.stdlib_module_names:
                    yield str(relative(path)), name


def _declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    requirements += (ROOT / "requirements" / "triton.in").read_text().splitlines()
    found = (re.match(r"[A-Za-z0-9._-]+", each) for each in requirements)
    return {_normal(match[0]) for match in found if match}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
