"""Trains a network, and writes down what came of it."""
