"""Models whose licence lets a student learn from them, as packages carry them."""
