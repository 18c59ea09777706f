"""A model on disk: its manifest, its files, its equivalence records and what it answers."""
