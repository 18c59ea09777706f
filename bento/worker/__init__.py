"""A worker process: the model, its queue, its counters and its log."""
