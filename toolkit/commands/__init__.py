"""The commands of `toolkit`, one file each. Heavy imports stay inside the functions."""
