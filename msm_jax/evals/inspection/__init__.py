"""Inspect (inspect.aisi.org.uk): our models in its evaluations, our evaluations in its logs.

Nothing here imports `inspect_ai` before Inspect itself asks for it.
"""
