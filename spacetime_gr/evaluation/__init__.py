"""Evaluation: protocols, metrics, counters and the report. Numpy only, but for `model_scorer`."""
