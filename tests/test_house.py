"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("src", "tests", "benchmarks", "demo", "fuzz", "docs")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
NATIVE = sorted((ROOT / "native").rglob("*.[ch]pp"))
MOST_LINES = 500
MOST_FUNCTION_LINES = 60
# A function may be longer for a reason, written on the line of its `def`.
EXCUSE = re.compile(r"#\s*long:\s*\S+")
FORBIDDEN_NAMES = {"utils", "helpers", "common", "core", "misc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_functions_stay_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            head = "\n".join(lines[node.lineno - 1 : node.body[0].lineno])
            assert length <= MOST_FUNCTION_LINES or EXCUSE.search(head), f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", NATIVE, ids=lambda path: str(path.relative_to(ROOT)))
def test_native_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_no_module_is_named_for_nothing():
    assert not {path.stem for path in MODULES} & FORBIDDEN_NAMES


def test_no_two_files_of_tests_have_one_name():
    """Test folders are no packages, so that pytest takes two files of one name for the same module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in names.items() if count > 1]


def test_imports_stand_at_the_top():
    """No import inside a function: the layers are checked where everybody can see them."""
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                inner = [child for child in ast.walk(node) if isinstance(child, ast.Import | ast.ImportFrom)]
                assert not inner, f"{path.relative_to(ROOT)}: {node.name}"


def test_every_verb_works_without_torch_and_transformers():
    """Import all of the package with both blocked."""
    script = (
        "import sys, importlib, pkgutil\n"
        "sys.modules['torch'] = sys.modules['transformers'] = sys.modules['gguf'] = None\n"
        "import halfpint\n"
        "for module in pkgutil.walk_packages(halfpint.__path__, 'halfpint.'):\n"
        "    if not module.name.endswith(('__main__', 'template_worker')):\n"
        "        importlib.import_module(module.name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


PACKAGE = sorted((ROOT / "src").rglob("*.py"))


def public_classes() -> list[tuple[str, str]]:
    """Name and module of every public class."""
    return [
        (node.name, str(path))
        for path in PACKAGE
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def test_one_name_is_one_thing():
    """Two classes, or two modules, of one name are taken for each other; packages say what their modules hold."""
    assert not repeated([name for name, _ in public_classes()])
    assert not repeated([path.stem for path in PACKAGE if not path.stem.startswith("__")])
