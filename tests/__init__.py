"""Tests, named after the behaviour that they hold."""
