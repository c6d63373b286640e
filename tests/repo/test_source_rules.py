"""Rules about the source, kept as tests so that they outlive the people who made them."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import eyeswap

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "eyeswap"
FILES = sorted(SOURCE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in SOURCE.rglob("__init__.py"))
MOST_CHECKPOINT_BYTES = 2_500_000
OPTIONAL_PACKAGES = ("triton", "lmms_eval")
MOST_BYTES = 1_500_000

# Spelt in halves so that this file does not break its own rule.
FOREIGN_WORDS = re.compile(
    "|".join(
        [
            *("/" + folder + "/" for folder in ("work", "farm", "home", "root")),
            *("files." + "pythonhosted", "pypi.org/" + "simple", "registry." + "npmjs", "deb." + "debian"),
            *(r"\b" + word + r"\b" for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX", "sub" + "agent")),
        ]
    )
)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so the list of tracked files is unknown")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.split("\0") if name and (ROOT / name).is_file()]


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def floors() -> dict[str, int]:
    """Read the floors from the architecture page, so that page and code cannot part."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("errors, "))
    return {name.strip(): level for level, floor in enumerate(line.split("|")) for name in floor.split(",")}


def imported_parts(path: Path) -> Iterator[str]:
    """Yield the part of the house (`vlm`, `errors`, ...) of every import in a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}:{node.lineno}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("eyeswap."))


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parent != SOURCE or path.stem != "__init__"], ids=relative
)
def test_no_import_climbs_a_floor(path: Path) -> None:
    levels = floors()
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    assert part in levels, f"{part} stands on no floor in docs/architecture.md"
    climbing = sorted({name for name in imported_parts(path) if levels[name] > levels[part]})
    assert not climbing, f"{relative(path)} imports from above: {climbing}"


def test_every_function_says_what_it_returns() -> None:
    silent = [
        f"{relative(path)}:{node.lineno} {node.name}"
        for path in FILES
        for node in functions(ast.parse(path.read_text(encoding="utf-8")))
        if node.returns is None
    ]
    assert not silent


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module and the public methods of its public classes."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    for scope in (tree, *classes):
        functions_here = (node for node in scope.body if isinstance(node, ast.FunctionDef))
        yield from (node for node in functions_here if not node.name.startswith("_"))


def test_docstrings_of_tensor_functions_give_shapes() -> None:
    tensor = re.compile(r"(tuple\[|^|\W)Tensor( \||,|\]|$)")
    silent = []
    for path in FILES:
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
            if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                continue  # the implementation carries the docstring
            arguments = [argument.annotation for argument in (*node.args.args, *node.args.kwonlyargs)]
            annotations = [ast.unparse(annotation) for annotation in (*arguments, node.returns) if annotation]
            takes_tensors = any(
                tensor.search(text) and "Mapping" not in text and "dict" not in text for text in annotations
            )
            told = ast.get_docstring(node) or ""
            if takes_tensors and "[" not in told and "shape" not in told:
                silent.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert not silent


def members(node: ast.ClassDef) -> set[str]:
    """Return the names of a class's own methods and annotated attributes."""
    annotated = (part.target for part in node.body if isinstance(part, ast.AnnAssign))
    return {target.id for target in annotated if isinstance(target, ast.Name)} | {
        part.name for part in node.body if isinstance(part, ast.FunctionDef)
    }


def test_public_methods_have_docstrings_unless_a_base_class_has_them() -> None:
    classes = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]

    def inherited(node: ast.ClassDef) -> set[str]:
        names = {ast.unparse(base).split("[")[0] for base in node.bases}
        bases = [base for _, base in classes if base.name in names and base is not node]
        return {name for base in bases for name in members(base) | inherited(base)}

    silent = [
        f"{relative(path)}:{part.lineno} {node.name}.{part.name}"
        for path, node in classes
        if not node.name.startswith("_")
        for part in node.body
        if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and not ast.get_docstring(part)
        if ast.unparse(part.body[0]) != "..." and part.name not in inherited(node)
        if not any("overload" in ast.unparse(one) for one in part.decorator_list)
    ]
    assert not silent


def test_no_file_is_over_500_lines() -> None:
    lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert not {path: length for path, length in lengths.items() if length > 500}


def test_no_folder_holds_over_20_files() -> None:
    counts = Counter(path.parent for path in FILES)
    assert not {relative(folder): count for folder, count in counts.items() if count > 20}


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("conftest.py", "__main__.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by name alone"


@pytest.mark.parametrize("package", PACKAGES, ids=relative)
def test_a_package_exports_what_it_lists_and_documents_it(package: Path) -> None:
    name = ".".join(("eyeswap", *package.relative_to(SOURCE).parts))
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    gathers = any(
        isinstance(node, ast.ImportFrom) and (node.module or "").startswith("eyeswap")
        for node in ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body
    )
    listed = getattr(module, "__all__", [])
    assert listed or not gathers, f"{name} gathers names but has no __all__"
    for public in listed:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


def test_every_module_opens_with_a_docstring() -> None:
    bare = [relative(path) for path in FILES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    assert not bare


def test_the_default_path_never_names_torchvision_or_timm() -> None:
    imports = []
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:  # the top level; extras are imported in functions
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imports += [f"{relative(path)}: {name}" for name in names if name.split(".")[0] in ("torchvision", "timm")]
    assert not imports


def test_every_module_can_be_imported() -> None:
    for module in pkgutil.walk_packages(eyeswap.__path__, "eyeswap."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL_PACKAGES:
                raise


def test_no_tracked_file_is_large() -> None:
    def limit(path: Path) -> int:
        return MOST_CHECKPOINT_BYTES if path.is_relative_to(SOURCE / "checkpoints") else MOST_BYTES

    large = [(relative(path), path.stat().st_size) for path in tracked_files() if path.stat().st_size > limit(path)]
    assert not large


def test_the_shipped_checkpoints_fit_into_twelve_megabytes() -> None:
    sizes = [path.stat().st_size for path in (SOURCE / "checkpoints").rglob("*") if path.is_file()]
    assert 0 < sum(sizes) <= 12_000_000


def test_the_repository_speaks_of_the_project_alone() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # an image or weights
        found += [f"{relative(path)}: {match.group()}" for match in FOREIGN_WORDS.finditer(text)]
    assert not found
