"""Whole workflows on a live system: stores, server, command line, training."""
