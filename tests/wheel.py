"""Build the wheel, install it without extras in a clean environment, and use it there."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
MODULES = ("taskvec/core/py.typed", "taskvec/adapters/py.typed", "taskvec/integrations/py.typed")
PLAYGROUND_FILES = ("page.html", "page.css", "asking.js", "snippets.js", "showing.js", "page.js")
PLAYGROUND = tuple(f"taskvec/integrations/server/playground/{name}" for name in PLAYGROUND_FILES)
STARTER_FILES = ("model.safetensors", "tokenizer.json", "LICENSE", "NOTICE", "README.md")
STARTER = tuple(f"taskvec/core/starter/{name}" for name in STARTER_FILES)
MAX_STARTER_BYTES = 40_000_000
USE = """
import importlib.util, sys
from taskvec.core import Encoder
for name in ("langchain_core", "llama_index", "qdrant_client", "pgvector", "psycopg"):
    assert importlib.util.find_spec(name) is None, name
with Encoder.load("starter") as encoder:
    vectors = encoder.encode(["a file", "a text"], task="retrieval.passage")
print(vectors.shape, encoder.tasks)
try:
    import taskvec.adapters.qdrant
except ImportError as error:
    assert "taskvec[qdrant]" in str(error), error
else:
    sys.exit("an adapter was imported without its framework")
"""


def main() -> None:
    """Fails with the command that failed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        run(sys.executable, "-m", "build", "--wheel", "--outdir", folder / "dist", ROOT)
        [wheel] = (folder / "dist").glob("*.whl")
        check_contents(wheel)
        venv.create(folder / "clean", with_pip=True)
        python = folder / "clean" / "bin" / "python"
        run(python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS, wheel)
        run(python, "-c", USE, cwd=folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, works without extras")


def check_contents(wheel: Path) -> None:
    """All three source roots are in the wheel, and `taskvec` stays a namespace package."""
    contents = zipfile.ZipFile(wheel)
    names = contents.namelist()
    missing = [name for name in (*MODULES, *PLAYGROUND, *STARTER) if name not in names]
    if missing or "taskvec/__init__.py" in names:
        sys.exit(f"{wheel.name}: missing {missing}, or taskvec/__init__.py is in it")
    packed = sum(info.compress_size for info in contents.infolist() if "/starter/" in info.filename)
    if packed > MAX_STARTER_BYTES:
        sys.exit(f"{wheel.name}: the starter takes {packed} bytes, more than {MAX_STARTER_BYTES}")


def run(*command: object, cwd: Path = ROOT) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


if __name__ == "__main__":
    main()
