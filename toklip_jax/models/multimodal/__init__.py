"""The multimodal language model: a language model that reads TokLIP's tokens of images."""
