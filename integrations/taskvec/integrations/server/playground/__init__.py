"""A page to try a served model on: texts in, a heat map of their cosine similarities out."""
