"""Judges: models that read an answer and return yes or no, a score, an option, or no verdict."""
