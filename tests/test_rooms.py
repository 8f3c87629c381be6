"""Where modules may import from: rooms are in floors, imports point down, and no two modules need each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "socialr1_jax"
# From the ground up; a room imports from itself and from those before it.
ROOMS = (
    "runtime",
    "config",
    "models",
    "weights",
    "data",
    "chat",
    "stories",
    "questions",
    "sampling",
    "rewards",
    "grpo",
    "run",
    "evaluation",
    "report",
    "training",
    "plan",
    "benchmark",
    "profiling",
)
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(file.read_text())
    for file in PACKAGE.rglob("*.py")
}


def imported(tree: ast.AST) -> set[str]:
    """Return the modules of the package that are imported anywhere in a tree."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("socialr1_jax"):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else str(node.module) for name in inner}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
    return found


def at_start(tree: ast.Module) -> set[str]:
    """Return those that are imported when the module is: outside of functions and of `if TYPE_CHECKING`."""
    lines = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return set().union(*(imported(node) for node in lines if not isinstance(node, ast.FunctionDef | ast.ClassDef)))


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_module_is_in_a_room():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "cli.py"}
    assert {room(module) for module in MODULES if "." in module} == {*ROOMS, "cli"}


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_down(name):
    up = {
        f"{module} imports {other}"
        for module, tree in MODULES.items()
        if "." in module and room(module) == name
        for other in imported(tree)
        if other == "socialr1_jax" or ROOMS.index(room(other)) > ROOMS.index(name)
    }
    assert not up


def test_no_two_modules_need_each_other():
    graph = {module: at_start(tree) - {module} for module, tree in MODULES.items() if module != "socialr1_jax"}
    TopologicalSorter(graph).prepare()  # raises CycleError naming them
