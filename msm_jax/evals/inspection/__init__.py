"""Inspect (inspect.aisi.org.uk): our models in its evaluations, and our evaluations in its logs.

Only `registry` can be imported without `inspect_ai`, and `batches` and `settings` need none of it.
"""
