"""Evaluation: protocols, metrics, counters, reports and comparisons. Without torch, but for `model_scorer`."""
