"""The cascade baseline: recall, coarse ranking and fine ranking, as a recommender of places is built today."""
