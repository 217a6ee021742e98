"""How well a model finds things: collections with judgements, metrics, peers, and MTEB."""
