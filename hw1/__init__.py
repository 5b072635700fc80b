"""hw1: controlled experiments on how small neural networks train and generalise."""

__version__ = "0.1.0"
