"""Recall of Qdrant's searches in stages, in its own engine in process, against exact search."""
