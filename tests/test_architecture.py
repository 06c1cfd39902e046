"""The shape of the house, read from its import statements.

Layers, what waits for torch, and what must never stand anywhere.
"""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# layer -> modules and packages of fewvit; imports go down or stay, inside functions too
LAYERS = {
    "errors": ["errors"],
    "ground": [
        "cpu",
        "digests",
        "features",
        "files",
        "headers",
        "kernels",
        "labels",
        "metrics",
        "options",
        "plugins",
        "preprocess",
        "results",
        "seeds",
        "spellings",
        "splits",
        "untrusted",
    ],
    "data": ["datasets", "images", "neighbors", "public_sets"],
    "backbones": ["backbones", "checkpoints", "models", "runs"],
    "features and methods": [
        "calibration",
        "classifiers",
        "extraction",
        "figures",
        "methods",
        "paired",
        "sources",
        "strangeness",
        "training",
        "views",
        "vote",
    ],
    "evaluations": ["curation", "evaluate", "export", "retrieval"],
    "trainings": ["bundles", "deploy", "finetune", "linear", "pretrain"],
    "sweeps": ["sweep"],
    "reports": ["inspect", "report"],
}
LAYER = {name: layer for layer, names in enumerate(LAYERS.values()) for name in names}
HEAVY = {"torch", "timm", "torchvision", "sklearn", "faiss", "openvino", "safetensors", "pyarrow", "scipy"}
# what a training or a backbone is made of, imported when one is built; everything else is imported without torch
BUILT_WITH_TORCH = {
    "models": {"backbone", "convnext", "engines", "rotary", "timm_model", "untrained", "vit"},
    "deploy": {"network"},
    "extraction": {"calls"},
    "finetune": {"adapters", "batches", "tuning"},
    "linear": {"batches", "head_grid", "head_stack", "linear_head", "optimizers"},
    "methods": {
        path.stem for path in (ROOT / "fewvit/methods").glob("_[a-z]*.py")
    },  # the methods' own files are imported for their help
    "pretrain": {"batches"},
    "training": {"clipping", "distributed", "groups", "loop", "memory", "on_cpu"},
    "views": {"colours", "crops", "mixing", "randaugment", "resample", "training_images"},
}
# packages that one command imports, once it has looked whether their extra is installed
BEHIND_AN_EXTRA = ("fewvit.retrieval.web",)
# what lies beside code in a package, other than code
_PAGE = ["templates/*", "static/*"]
DATA = {
    "fewvit": ["weights/*"],
    "fewvit.inspect": ["static/*"],
    "fewvit.public_sets": ["lists/*"],
    "fewvit.report": _PAGE,
    "fewvit.retrieval.web": _PAGE,
}


@dataclass(frozen=True)
class Import:
    """One import statement, made absolute."""

    module: str
    when: str  # module: on import; function: when one is called; typing: never


@functools.cache
def files() -> dict[str, Path]:
    """Module name -> its file, of the library and the command line."""
    found = {}
    for folder, package in (("fewvit", "fewvit"), ("cli", "fewvit_cli")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def tree(module: str) -> ast.Module:
    return ast.parse(files()[module].read_text(encoding="utf-8"))


def absolute(module: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """What a statement imports; `from package import submodule` is the submodule."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    base = module.split(".") if files()[module].name == "__init__.py" else module.split(".")[:-1]
    base = base[: len(base) - node.level + 1] if node.level else []
    name = ".".join([*base, *([node.module] if node.module else [])])
    for alias in node.names:
        yield f"{name}.{alias.name}" if f"{name}.{alias.name}" in files() else name


def when(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> str:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return "typing"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return "function"
    return "module"


@functools.cache
def imports(module: str) -> tuple[Import, ...]:
    parents = {child: node for node in ast.walk(tree(module)) for child in ast.iter_child_nodes(node)}
    nodes = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Import | ast.ImportFrom)]
    return tuple(
        Import(name, when(node, parents)) for node in nodes for name in absolute(module, node) if name != "__future__"
    )


def place(module: str) -> str:
    """`datasets` for `fewvit.datasets.folder`: what the table above names."""
    return module.split(".")[1] if "." in module else ""


# `python -m fewvit` is the command line's other door
LIBRARY = [name for name in files() if name.startswith("fewvit.") and name != "fewvit.__main__"]


def test_every_module_has_a_layer_and_every_layer_its_modules():
    assert {place(module) for module in LIBRARY} == set(LAYER)


def test_the_readme_names_the_layers_and_what_is_in_them():
    """The rows of its table, read from the bottom, are LAYERS."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| ([a-z ]+) \| (.*`.*) \|$", text[text.index("architecture:begin") : text.index("architecture:end")], re.M
    )
    named = {
        layer: sorted(word.rstrip("/") for word in re.findall(r"`([a-z_]+/?)`", row)) for layer, row in reversed(table)
    }
    assert list(named) == list(LAYERS)
    assert named == {layer: sorted(names) for layer, names in LAYERS.items()}


@pytest.mark.parametrize("module", LIBRARY)
def test_imports_go_to_lower_layers_or_stay(module):
    wrong = [
        f"{module} (layer {LAYER[place(module)]}) imports {found.module} ({LAYER[place(found.module)]}, {found.when})"
        for found in imports(module)
        if found.module.startswith("fewvit.")
        and found.when != "typing"
        and LAYER[place(found.module)] > LAYER[place(module)]
    ]
    assert wrong == []


def test_the_import_graph_has_no_cycle():
    graph = {
        module: {i.module for i in imports(module) if i.when != "typing" and i.module in files()} for module in files()
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for other in sorted(graph[module] - {module}):
                visit(other, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())
    assert graph["fewvit.vote"] == {"fewvit.errors", "fewvit.neighbors"}  # the reader of imports reads
    assert "fewvit.datasets.archive" in graph["fewvit.sources"]  # also inside functions


def test_packages_do_not_import_one_another_in_turn():
    pairs = {
        (place(m), place(i.module))
        for m in LIBRARY
        for i in imports(m)
        if i.when != "typing" and i.module.startswith("fewvit.")
    }
    assert [(one, other) for one, other in pairs if one < other and (other, one) in pairs] == []


def test_the_top_of_the_house_stays_small():
    assert len(list((ROOT / "fewvit").glob("*.py"))) <= 20


REASON = re.compile(r"(?i)one file (?:because|since|:)")


@pytest.mark.parametrize("module", files())
def test_a_file_of_more_than_350_lines_says_in_its_first_lines_why_it_is_one(module):
    text = files()[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350 or REASON.search(ast.get_docstring(tree(module)) or ""), module


def test_the_library_never_imports_the_command_line():
    assert [m for m in LIBRARY for i in imports(m) if i.module.startswith(("fewvit_cli", "cli"))] == []


@pytest.mark.parametrize("module", [*LIBRARY, *(name for name in files() if name.startswith("fewvit_cli"))])
def test_heavy_packages_are_imported_when_a_function_needs_them(module):
    heavy = {found.module.split(".")[0] for found in imports(module) if found.when == "module"} & HEAVY
    if module.rpartition(".")[2] in BUILT_WITH_TORCH.get(place(module), set()):
        assert heavy <= {"torch"}
    elif module.startswith("fewvit.classifiers."):
        assert heavy <= {"sklearn"}  # an estimator inherits from scikit-learn's
    else:
        assert heavy == set()


def test_only_neighbors_imports_faiss():
    assert {module for module in files() for found in imports(module) if found.module.split(".")[0] == "faiss"} == {
        "fewvit.neighbors.installed"
    }


def test_numpy_only_layers_import_no_other_package():
    allowed = {
        "splits": {"torch"},
        "metrics": {"scipy"},
    }  # torch's generator is DINOv2's; the t quantile; both inside functions
    for module in LIBRARY:
        if LAYER[place(module)] <= LAYER["features"]:
            outside = {found.module.split(".")[0] for found in imports(module)} & (HEAVY | {"PIL", "typer", "rich"})
            assert outside == allowed.get(place(module), set()), module


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_imported_is_a_declared_dependency():
    import sys

    declared = {re.split(r"[<>=; \[]", line)[0].lower() for line in project()["project"]["dependencies"]}
    extras = {
        re.split(r"[<>=; \[]", line)[0].lower()
        for lines in project()["project"]["optional-dependencies"].values()
        for line in lines
    }
    known_as = {
        "sklearn": "scikit-learn",
        "PIL": "pillow",
        "pillow_heif": "pillow-heif",
        "lance": "pylance",
        "qdrant_client": "qdrant-client",
        "qdrant_edge": "qdrant-edge-py",
        "faiss": "faiss-cpu",
        "threadpoolctl": "scikit-learn",
        "umap": "umap-learn",
        "python_multipart": "python-multipart",
    }  # which needs it
    for module in files():
        for found in imports(module):
            name = found.module.split(".")[0]
            if name in sys.stdlib_module_names or name in ("fewvit", "fewvit_cli"):
                continue
            package = known_as.get(name, name).lower()
            waits = found.when != "module" or module.startswith(BEHIND_AN_EXTRA)
            assert package in declared or (waits and package in extras), f"{module} imports {name}"


def test_what_is_behind_an_extra_is_imported_by_nothing_else_until_a_function_runs():
    wrong = [
        f"{module} imports {found.module}"
        for module in files()
        for found in imports(module)
        if found.module.startswith(BEHIND_AN_EXTRA)
        and found.when == "module"
        and not module.startswith(BEHIND_AN_EXTRA)
    ]
    assert wrong == []


# ---- what the interpreter really does

LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(sorted({"numpy", "torch", "timm", "torchvision", "sklearn", "faiss", "scipy", "PIL"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "module", ["fewvit", "fewvit_cli.main", "fewvit.errors", "fewvit.plugins", "fewvit.backbones", "fewvit.results"]
)
def test_help_and_usage_errors_never_wait_for_numpy_or_torch(module, tmp_path, python):
    (tmp_path / "fewvit_cli").symlink_to(ROOT / "cli")
    assert python(LOADED, module, PYTHONPATH=f"{tmp_path}:{ROOT}").stdout.strip() == "[]"


MISSPELT = """
import sys
from fewvit_cli.main import run
code = run(sys.argv[1:])
print(code, sorted({"torch", "timm", "sklearn", "faiss", "scipy"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("pretrain", "dino", "--data", "digits", "--preset", "small/63"), "small/64"),
        (("pretrain", "dinoo", "--data", "digits"), "dino"),
        (("finetune", "--data", "digits", "--mode", "lorra"), "lora"),
        (("linear", "--data", "digits", "--protocol", "dnio/1"), "dino/1"),
    ],
)
def test_a_misspelt_name_of_a_training_never_waits_for_torch(words, told, tmp_path, python):
    (tmp_path / "fewvit_cli").symlink_to(ROOT / "cli")
    done = python(MISSPELT, *words, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.stdout.strip() == "2 []"
    assert f"Did you mean {told}" in done.stderr


NAMES = """
import sys, fewvit
for name in fewvit.__all__:
    assert getattr(fewvit, name) is not None
    assert name in dir(fewvit)
try:
    fewvit.no_such_name
except AttributeError as error:
    print(error)
"""


def test_every_public_name_can_be_imported_and_no_other(python):
    assert python(NAMES).stdout.strip() == "module 'fewvit' has no attribute 'no_such_name'"


# ---- what must never stand anywhere

FORBIDDEN = [
    "weights_only=False",
    "pickle.load(",
    "pickle.loads(",
    "torch.hub",
    "allow_pickle=True",
    "shell=True",
    "trust_remote_code",
    "os.system(",
]


@pytest.mark.parametrize("module", files())
def test_nothing_runs_code_that_it_was_given(module):
    text = files()[module].read_text(encoding="utf-8")
    squeezed = re.sub(r"\s*=\s*", "=", text)
    assert [words for words in FORBIDDEN if words in squeezed] == []
    called = {
        node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("module", files())
def test_no_check_hangs_on_assert(module):
    assert [node.lineno for node in ast.walk(tree(module)) if isinstance(node, ast.Assert)] == []


# ---- packaging and names


def test_the_wheel_holds_every_package():
    setup = project()["tool"]["setuptools"]
    folders = {str(path.parent.relative_to(ROOT)).replace("/", ".") for path in ROOT.glob("fewvit/**/__init__.py")}
    assert sorted(setup["packages"]) == sorted({*folders, "fewvit_cli"})
    assert setup["package-dir"] == {"fewvit": "fewvit", "fewvit_cli": "cli"}
    assert [path for path in (ROOT / "cli").iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    with_code = {path.parent for path in ROOT.glob("fewvit/**/*.py")}
    assert with_code == {path.parent for path in ROOT.glob("fewvit/**/__init__.py")}
    beside = {
        ROOT / package.replace(".", "/") / pattern.removesuffix("/*")
        for package, patterns in DATA.items()
        for pattern in patterns
    }
    assert not any(
        path.suffix
        not in (".py", ".c", ".so", "")  # C is built into the wheel; in a checkout what is built lies beside it
        for path in ROOT.glob("fewvit/**/*")
        if path.is_file() and "__pycache__" not in path.parts and path.parent not in beside
    )
    assert setup["package-data"] == DATA
    files = sorted(path.name for path in (ROOT / "fewvit/weights").iterdir())
    assert files == [f"fewvit_tiny.{kind}" for kind in ("json", "safetensors")]


def test_no_attribute_of_a_package_bears_a_submodules_name():
    import fewvit

    packages = {name for name, path in files().items() if path.name == "__init__.py"}
    for package in packages:
        submodules = {name.rpartition(".")[2] for name in files() if name.rpartition(".")[0] == package}
        bound = {node.name for node in tree(package).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        bound |= {
            alias.asname or alias.name
            for node in tree(package).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        bound |= set(fewvit._HOMES) if package == "fewvit" else set()
        assert not bound & submodules, package


def test_the_public_names_live_where_the_package_says():
    import fewvit

    for name, home in fewvit._HOMES.items():
        assert f"fewvit.{home}" in files(), name


def described(module: str) -> set[str]:
    """Names that a module's own docstring explains, as errors does with its tree."""
    return set(re.findall(r"\w+", ast.get_docstring(tree(module)) or ""))


@pytest.mark.parametrize("module", files())
def test_every_module_and_every_public_function_and_class_is_documented(module):
    assert ast.get_docstring(tree(module)), module
    definitions = [
        node for node in tree(module).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    private = module.rpartition(".")[2].startswith("_")
    bare = [
        node.name
        for node in definitions
        if not node.name.startswith("_") and not ast.get_docstring(node) and not private
    ]
    assert [name for name in bare if name not in described(module)] == []


def test_the_tree_of_errors_is_drawn_as_it_is():
    """Indentation and exit codes in the module's docstring are those of the classes."""
    from fewvit import errors

    drawn, path = {}, ["Exception"]
    for line in errors.__doc__.splitlines():
        found = (
            re.match(r"^([ │├└─]*)(\w+Error|\w+)(?: (\d))?\b", line[4:])
            if re.search(r"[├└]|^    FewvitError", line)
            else None
        )
        if found:
            depth = len(found[1]) // 4 + 1
            path = [*path[:depth], found[2]]
            drawn[found[2]] = (path[-2], int(found[3]) if found[3] else None)
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.FewvitError)
    }
    assert set(drawn) == set(classes)
    for name, (parent, code) in drawn.items():
        assert classes[name].__bases__[0].__name__ == parent
        assert code is None or classes[name].exit_code == code
    assert {value.exit_code for value in classes.values()} == {1, 2, 3, 4, 5, 6}
