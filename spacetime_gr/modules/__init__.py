"""Parts of the model that are not a transformers decoder: side inputs, place tables, typed and pointer heads."""
