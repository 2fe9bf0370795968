"""The TFDS data set `spec_documents`: what a model reads about its spec."""
