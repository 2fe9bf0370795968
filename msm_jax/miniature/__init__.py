"""A small synthetic world in which the effect of midtraining on a spec can be seen on a laptop."""
