"""The questions of the demo: each is answered somewhere in the standard library's docstrings."""

QUESTIONS = (
    "How do I parse command line arguments?",
    "How can I run a command and capture its output?",
    "Create a temporary directory that is deleted afterwards",
    "Compare two texts and show the differences",
    "Measure how long a small piece of code takes",
    "Find files whose names match a pattern",
    "Cache the results of a function",
    "What is the median of a list of numbers?",
    "Is this year a leap year?",
    "Escape special characters in HTML",
)
