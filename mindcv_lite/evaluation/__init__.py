"""Scores, and what else is said of a network's predictions."""
