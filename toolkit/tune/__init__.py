"""Searches hyperparameters with Optuna."""
