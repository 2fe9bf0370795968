"""Inspect (inspect.aisi.org.uk): our models in its evaluations, and our evaluations in its logs.

Nothing here imports `inspect_ai` before it is needed.
"""
