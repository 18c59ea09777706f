"""Makes a model: data, preprocessing, network, training. Importing it imports nothing else."""

__version__ = "0.1.0"
