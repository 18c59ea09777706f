"""A proven model to a bento and to a container image."""
