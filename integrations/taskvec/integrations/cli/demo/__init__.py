"""The demo: one corpus through four frameworks, the same questions to each, one answer."""
