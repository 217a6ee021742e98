"""Run the tests of the Qdrant adapter on every minor version of qdrant-client that it works with.

Each version is put into a folder of its own under build/matrix and goes before the environment's
one on the import path; all else is the environment's. `make test-matrix` runs this; versions as
arguments run those alone.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "matrix"
# The newest patch of each minor version.
VERSIONS = ("1.14.3", "1.15.1", "1.16.2", "1.17.1", "1.18.0", "1.19.1", "1.20.0")
# These make vectors elsewhere: `enable_inference` says so, and the rest of the adapter works.
TOO_OLD = ("1.12.2", "1.13.3")
TESTS = ("tests/integration/test_qdrant.py", "tests/conformance/test_adapters.py")
# The command's store keeps its fingerprint in what came with 1.16.
CHOSEN = "(qdrant or Qdrant) and not CommandLine"
# Old clients are older than the libraries below them; their deprecations are not ours to cure.
WARNINGS = ("-W", "ignore::DeprecationWarning:qdrant_client", "-W", "ignore::UserWarning:pydantic")
OLD = """
import importlib.metadata, sys
from qdrant_client import QdrantClient
from taskvec.adapters.qdrant import enable_inference, points, query_vector
from taskvec.core.errors import StoreError
version = importlib.metadata.version("qdrant-client")
assert version == sys.argv[1], version
made = points(["a file"], dim=32)
assert len(made[0].vector) == len(query_vector("a file", dim=32)) == 32
try:
    enable_inference(QdrantClient(":memory:"))
except StoreError as error:
    assert f"qdrant-client {version}" in str(error), error
    print(error)
else:
    sys.exit("an unknown inference step was taken for a known one")
"""


def main(versions: list[str]) -> None:
    """Test these versions, or all. Ends with an error where a version failed."""
    failed = []
    for version in versions or [*TOO_OLD, *VERSIONS]:
        print(f"\nqdrant-client {version}", flush=True)
        check = refused if version in TOO_OLD else tested
        if not check(version, installed(version)):
            failed.append(version)
    if failed:
        sys.exit(f"failed with qdrant-client {', '.join(failed)}")


def installed(version: str) -> dict[str, str]:
    """An environment in which this version of the client is the one that is imported."""
    folder = FOLDER / version
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, f"qdrant-client=={version}"], check=True)
    roots = (folder, *(ROOT / name for name in ("core", "adapters", "integrations")))
    path = os.pathsep.join(map(str, roots))
    return os.environ | {"PYTHONPATH": path, "TASKVEC_TEST_QDRANT_CLIENT": version}


def tested(_: str, environment: dict[str, str]) -> bool:
    """Whether the tests pass; the report's header says which client they had."""
    command = [sys.executable, "-m", "pytest", *WARNINGS, "-k", CHOSEN, *TESTS]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


def refused(version: str, environment: dict[str, str]) -> bool:
    """Whether an older client is told of, and serves `points` and `query_vector`."""
    command = [sys.executable, "-c", OLD, version]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    main(sys.argv[1:])
