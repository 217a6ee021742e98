"""The walls of the house: layering, packaging, public names, errors."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import taskvec.core
from taskvec.core import errors

ROOT = Path(__file__).parents[2]
SOURCES = ("core", "adapters", "integrations")
# What each root may import of taskvec.
ALLOWED = {
    "core": ("taskvec.core",),
    "adapters": ("taskvec.core", "taskvec.adapters"),
    "integrations": ("taskvec.core", "taskvec.adapters", "taskvec.integrations"),
}
OPTIONAL = (
    "boto3",
    "langchain_core",
    "llama_index",
    "qdrant_client",
    "pgvector",
    "psycopg",
    "rich",
)


def modules(root: str) -> list[Path]:
    return sorted((ROOT / root).rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("root", SOURCES)
def test_imports_point_one_way(root: str) -> None:
    assert modules(root)
    for path in modules(root):
        for name in imports(path):
            if name.startswith("taskvec"):
                assert name.startswith(ALLOWED[root]), f"{path} imports {name}"


@pytest.mark.parametrize("root", SOURCES)
def test_taskvec_is_a_namespace_package(root: str) -> None:
    assert not (ROOT / root / "taskvec" / "__init__.py").exists()
    assert (ROOT / root / "taskvec" / root / "py.typed").exists()


@pytest.mark.parametrize("root", SOURCES)
def test_every_module_opens_with_a_docstring(root: str) -> None:
    for path in modules(root):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_nothing_is_unpickled_and_no_remote_code_runs() -> None:
    for root in SOURCES:
        for path in modules(root):
            source = path.read_text(encoding="utf-8")
            for forbidden in ("pickle.load", "torch.load(", "joblib", "trust_remote_code=True"):
                assert forbidden not in source, f"{path} has {forbidden}"


def test_public_names_of_the_core() -> None:
    names = "Embedder Encoder RemoteEncoder Roles SageMakerEncoder shared_encoder".split()
    assert taskvec.core.__all__ == names
    assert all(hasattr(taskvec.core, name) for name in names)


def test_the_core_loads_no_optional_package() -> None:
    code = f"import sys, taskvec.core; print([m for m in {OPTIONAL!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_error_has_a_status_and_a_place_in_the_tree() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, errors.TaskvecError)
    ]
    for kind in classes:
        assert kind.__name__ in (errors.__doc__ or "")
        error = kind("feature", "extra") if kind is errors.MissingExtraError else kind("text")
        status = errors.status_of(error)
        assert 400 <= status.http < 600
        assert status.exit_code in {1, 2}
    assert errors.status_of(errors.TaskError("x")) == errors.STATUS[errors.InputError]


def test_a_missing_extra_names_its_cure() -> None:
    error = errors.MissingExtraError("taskvec.adapters.qdrant", "qdrant")
    assert isinstance(error, ImportError)
    assert "pip install 'taskvec[qdrant]'" in str(error)


SLOW = ("torch", "transformers", "peft")


@pytest.mark.parametrize(
    "code",
    [
        "import taskvec.core",
        "import taskvec.core.engine",
        "from taskvec.core import Embedder, RemoteEncoder, Roles, shared_encoder; dir(Roles)",
        "import taskvec.core; dir(taskvec.core); taskvec.core.shared_encoder('starter')",
        "import taskvec.adapters.pgvector, taskvec.adapters.qdrant, taskvec.adapters.langchain",
        "import taskvec.integrations.langchain, taskvec.integrations.llama_index",
        "import taskvec.integrations.qdrant",
        "from taskvec.integrations.cli import main; main(['--help'])",
        "from taskvec.integrations.cli import main; main(['info', '--help'])",
    ],
)
def test_what_needs_no_model_loads_no_torch(code: str) -> None:
    """They take seconds to import, and a web application starts with what it may never use."""
    shown = f"import sys\nprint([name for name in {SLOW!r} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{shown}"], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"


def test_a_lazy_name_is_found_in_every_way() -> None:
    code = (
        "import taskvec.core; assert 'Encoder' in dir(taskvec.core)\n"
        "from taskvec.core import *\n"
        "from taskvec.core.encoder import Encoder as same\n"
        "assert Encoder is same is taskvec.core.Encoder\n"
        "taskvec.core.Decoder"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "module 'taskvec.core' has no attribute 'Decoder'" in run.stderr
