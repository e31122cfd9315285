"""Decoding made for places: two forward steps, batched over histories and blocks."""
