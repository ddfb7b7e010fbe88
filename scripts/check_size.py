"""Check that the package stays small, layered and readable: python scripts/check_size.py, from the root of the repository.

Prints a table of sizes with their limits, then all imports and sentences that break a rule. Exits with 1 if there are any.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

LINES, FILES, LONGEST, ANY = 19_350, 110, 350, 90

# A room imports only itself and rooms before it.
ROOMS = (
    "errors", "_types", "_infra", "kernels", "exact", "constraints", "directions", "data", "histograms", "engines",
    "sliced", "target", "loss", "sketch", "two_sample", "sklearn", "scoring", "flow", "metrics", "generative", "report",
    "__init__", "cli", "__main__",
)  # fmt: skip

DOCSTRING_STARTS = re.compile(r"(What|Whether|Of|Where|How|That|From|By how)\b")
BANNED = re.compile(
    r"\b(heed|likewise|anew|lest|such ones|(and|or) the like|no number|the law|told|said|kept back|beside|the way back)\b"
    r"|, say,"
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "rieszflow"


def main() -> int:
    paths = sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyi"))
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lengths = {path: len(text.splitlines()) for path, text in texts.items()}
    names = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "Any"]
    sizes = [
        ("lines", sum(lengths.values()), LINES),
        ("files", len(lengths), FILES),
        ("longest file", max(lengths.values()), LONGEST),
        ("Any", len(names), ANY),
    ]
    for name, found, limit in sizes:
        print(f"{name:14}{found:>8,}{limit:>8,}{'' if found <= limit else '  above the limit'}")
    problems = [f"{_short(path)}: {n} lines" for path, n in lengths.items() if n > LONGEST]
    problems += [problem for path, tree in trees.items() for problem in _upward_imports(path, tree)]
    problems += _circles({_module(path): set(_imports(tree, deferred=False)) for path, tree in trees.items()})
    problems += [problem for path, text in texts.items() for problem in _odd_words(path, text, trees[path])]
    problems += _missing_names((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    print("\n".join(problems))
    return int(bool(problems) or any(found > limit for _, found, limit in sizes))


def _short(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def _imports(node: ast.AST, deferred: bool) -> Iterator[str]:
    """Yield the modules of the package that a tree imports, without the package's name; `deferred`: in functions, too."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not deferred:
        return
    if isinstance(node, ast.Import):
        yield from (alias.name.removeprefix("rieszflow.") for alias in node.names if alias.name.startswith("rieszflow."))
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rieszflow":
        parent = node.module.removeprefix("rieszflow").removeprefix(".")
        for alias in node.names:
            if alias.name == "__version__":
                continue
            inner = f"{parent}.{alias.name}".removeprefix(".")
            place = PACKAGE / inner.replace(".", "/")
            yield inner if place.is_dir() or place.with_suffix(".py").is_file() else parent or "__init__"
    for child in ast.iter_child_nodes(node):
        yield from _imports(child, deferred)


def _upward_imports(path: Path, tree: ast.AST) -> Iterator[str]:
    room = _module(path).split(".")[0]
    if room not in ROOMS:
        yield f"{_short(path)}: not in the list of rooms"
        return
    for module in _imports(tree, deferred=True):
        other = module.split(".")[0]
        if other in ROOMS and ROOMS.index(other) > ROOMS.index(room):
            yield f"{_short(path)}: imports {module}, a room above it"


def _circles(imports: dict[str, set[str]]) -> list[str]:
    """Remove modules that import none of those left, or that none of them imports, until only circles remain."""
    left = {module: others & imports.keys() - {module} for module, others in imports.items()}
    while free := {m for m, others in left.items() if not others} or left.keys() - set().union(*left.values()):
        left = {module: others - free for module, others in left.items() if module not in free}
    return [f"import circle through {module}" for module in left]


def _odd_words(path: Path, text: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node) or ""
            if DOCSTRING_STARTS.match(docstring):
                yield f"{_short(path)}: a docstring begins with {docstring.splitlines()[0][:60]!r}"
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT or tokenize.tok_name[token.type] in ("STRING", "FSTRING_MIDDLE"):
            for k, line in enumerate(token.string.splitlines()):
                for match in BANNED.finditer(line):
                    yield f"{_short(path)}:{token.start[0] + k}: {match[0]!r}"


def _missing_names(walks: str) -> Iterator[str]:
    """Yield the names in "`path.py` (`name`, …)" that the file does not define."""
    for path, inside in re.findall(r"`([\w/]+(?:\.py|/))`\s\(([^)]*)\)", walks):
        name = path if path.endswith(".py") else f"{path}__init__.py"
        files = [file for place in (PACKAGE, ROOT) for file in place.rglob(Path(name).name) if f"/{file}".endswith(f"/{name}")]
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files if ".venv" not in file.parts]
        defined = {found for tree in trees for found in _defined(tree)}
        for wanted in re.findall(r"`([A-Za-z_][\w.]*)`", inside):
            if not wanted.endswith(".py") and wanted not in defined:
                yield f"CONTRIBUTING.md: {path} does not define {wanted}"


def _defined(tree: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name
        elif isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from _defined(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))


if __name__ == "__main__":
    sys.exit(main())
