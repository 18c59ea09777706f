"""Every format and precision of a model, timed side by side."""
