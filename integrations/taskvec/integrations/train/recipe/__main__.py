"""Make the multilingual starter: `python -m taskvec.integrations.train.recipe --out FOLDER`.

The same command goes on where a stopped one left off.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from taskvec.core.errors import InputError, TaskvecError
from taskvec.integrations.train.recipe.stages import Recipe


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all stages that are not yet done, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="new folder of the checkpoint")
    parser.add_argument("--work", type=Path, help="folder of what is made (default: OUT.work)")
    parser.add_argument("--seed", type=int, help="of a new work folder (default: 0)")
    options = parser.parse_args(arguments)
    work: Path = options.work or options.out.with_name(f"{options.out.name}.work")
    try:
        if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
            raise InputError(f"{options.out} is not empty: give --out a new folder")
        Recipe(work.resolve(), options.seed).write(options.out)
    except TaskvecError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
