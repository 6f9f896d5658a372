"""A convolutional tokenizer with any quantiser, to be trained from scratch."""
