"""Whole experiments: arms as a graph of stages, run resumably, measured and reported."""
