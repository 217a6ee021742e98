"""Qdrant workflow: a collection that cuts, encodes, stores and finds documents."""

from taskvec.integrations.extras import needs_extra

with needs_extra("taskvec.integrations.qdrant", "qdrant"):
    from taskvec.integrations.qdrant.async_collection import AsyncTaskvecCollection
    from taskvec.integrations.qdrant.collection import TaskvecCollection
    from taskvec.integrations.qdrant.documents import Document
    from taskvec.integrations.qdrant.hits import Explanation, Hit, Stage
    from taskvec.integrations.qdrant.ingesting import Ingested

__all__ = [
    "AsyncTaskvecCollection",
    "Document",
    "Explanation",
    "Hit",
    "Ingested",
    "Stage",
    "TaskvecCollection",
]
