"""One step of a training: what it is made of, and how it is repeated."""
