"""The parts of the tokenizer: reading histories, what is inferred of them, padding, decoding, storage."""
