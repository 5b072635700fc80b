"""What a classifier says of each example: predicted class, confidence, where it errs and how surely."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hw1.models import evaluating


def predict(model: nn.Module, slices: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Predicted classes argmax_k f_k(x), (N,) int64, and the probabilities softmax(f(x)) of them, (N,), on the CPU.

    Args:
        model: (B, *shape) → logits (B, K); evaluated in evaluation mode, its own mode is restored.
        slices: inputs (B, *shape) with labels (B,), which are not looked at; at least one.
    """
    predicted, confidence = [], []
    with evaluating(model), torch.inference_mode():
        for x, _ in slices:
            logits = model(x)
            best = logits.argmax(1, keepdim=True)  # not of the softmax, whose rounding makes ties
            predicted.append(best.squeeze(1).cpu())
            confidence.append(logits.softmax(1).gather(1, best).squeeze(1).cpu())
    if not predicted:
        raise ValueError("need at least one example")
    return torch.cat(predicted), torch.cat(confidence)


def confusion(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """How many examples of each class (row) were taken for each class (column), (K, K) int64; it sums to N.

    Args: labels, predicted: (N,) int64 in [0, K).
    """
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise ValueError(f"need two vectors of one length, got {tuple(labels.shape)} and {tuple(predicted.shape)}")
    return torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)


def most_confidently_wrong(labels: Tensor, predicted: Tensor, confidence: Tensor, count: int) -> Tensor:
    """Examples by (1/R) Σ_r 1[predicted_r ≠ label]·p_r(predicted_r), largest first; at most `count`, of score > 0.

    So an example that all replicas get wrong, and surely so, comes before one that a single replica gets wrong.

    Args: labels (N,), predicted (R, N), confidence (R, N) of R networks, R ≥ 1.
    Returns: (≤ count,) positions; of equal scores the earlier example first.
    """
    score = torch.where(predicted != labels, confidence.double(), 0.0).mean(0)
    order = torch.argsort(score, descending=True, stable=True)[:count]
    return order[score[order] > 0]
