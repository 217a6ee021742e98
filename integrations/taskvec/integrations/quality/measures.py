"""Metrics of a ranking against judgements, by trec_eval's own code."""

from typing import NamedTuple

import pytrec_eval

from taskvec.integrations.quality.collections import Judgements
from taskvec.integrations.quality.rankers import Ranking

NAMES = {
    "ndcg_10": "ndcg_cut_10",
    "recall_10": "recall_10",
    "recall_100": "recall_100",
    "reciprocal_rank": "recip_rank",
    "average_precision": "map",
}


class Measures(NamedTuple):
    """Means over the queries that have a judgement above 0."""

    ndcg_10: float
    recall_10: float
    recall_100: float
    reciprocal_rank: float
    average_precision: float


def measure(judgements: Judgements, ranking: Ranking) -> Measures:
    """The metrics of a ranking. A query for which nothing was found counts as 0.

    As in BEIR, a document with the query's own id is passed over: it is the query itself.
    """
    relevant = {
        query: dict(grades) for query, grades in judgements.items() if max(grades.values()) > 0
    }
    evaluator = pytrec_eval.RelevanceEvaluator(relevant, set(NAMES.values()))
    found = evaluator.evaluate({query: _others(query, ranking) for query in relevant})

    def mean(name: str) -> float:
        return sum(found.get(query, {}).get(name, 0.0) for query in relevant) / len(relevant)

    return Measures(*(mean(name) for name in NAMES.values()))


def _others(query: str, ranking: Ranking) -> dict[str, float]:
    return {key: score for key, score in ranking.get(query, {}).items() if key != query}
