"""Reproduce rows of the jina-embeddings-v3 paper with mteb, for an owner of the weights.

    pip install mteb
    python examples/mteb_eval.py --kind STS

It downloads the weights (CC BY-NC 4.0) and mteb's data sets where they are not at hand. The rows of
all of a kind's tasks take hours on a CPU; `--task STSBenchmark` measures one.
"""

import argparse

import mteb

from taskvec.core import Encoder
from taskvec.core.errors import TaskvecError
from taskvec.integrations.quality.mteb_encoder import MtebEncoder

# Averages over the English benchmark, in percent. Source: arXiv:2409.10173.
PUBLISHED = {"Classification": 82.58, "STS": 85.80}
BENCHMARK = "MTEB(eng, v1)"


def main() -> None:
    """Measure, and print each task's main score and the average beside the published one."""
    parser = argparse.ArgumentParser(description="rows of the paper, measured with taskvec")
    parser.add_argument("--model", default="jinaai/jina-embeddings-v3")
    parser.add_argument("--kind", choices=sorted(PUBLISHED), default="STS")
    parser.add_argument("--task", action="append", help="one task of the kind; may be given again")
    parser.add_argument("--dim", type=int, help="a Matryoshka dim (default: the full one)")
    options = parser.parse_args()
    tasks = [
        task
        for task in mteb.get_benchmark(BENCHMARK).tasks
        if task.metadata.type == options.kind
        and task.metadata.name in (options.task or [task.metadata.name])
    ]
    try:
        encoder = Encoder.load(options.model)
    except TaskvecError as error:
        parser.exit(2, f"{error}\n")
    with encoder:
        model = MtebEncoder(encoder, name=options.model, dim=options.dim)
        results = mteb.evaluate(model, tasks)
    scores = {result.task_name: 100 * result.get_score() for result in results.task_results}
    for name, score in scores.items():
        print(f"{score:6.2f}  {name}")
    average = sum(scores.values()) / len(scores)
    print(f"{average:6.2f}  average of {len(scores)} {options.kind} tasks")
    if options.task is None and options.dim is None:
        print(f"{PUBLISHED[options.kind]:6.2f}  published")


if __name__ == "__main__":
    main()
