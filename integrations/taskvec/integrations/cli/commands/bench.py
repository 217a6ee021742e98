"""`taskvec bench quality`: how well models find things, beside peers."""

import argparse
from pathlib import Path

from taskvec.integrations.extras import needs_extra


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, print the tables, and write them where asked."""
    with needs_extra("evaluation", "quality"):
        from taskvec.integrations.quality import report
        from taskvec.integrations.quality.running import Evaluation, evaluate
    evaluation = Evaluation(
        models=arguments.model or ["starter"],
        data=[Path(path) for path in arguments.data],
        split=arguments.split,
        dims=arguments.dims,
        all_tasks=arguments.all_tasks,
        peers=arguments.peer,
        bm25=arguments.bm25,
    )
    found = evaluate(evaluation)
    print(report.markdown(found))
    if arguments.out:
        report.write(found, Path(arguments.out))
    return 0
