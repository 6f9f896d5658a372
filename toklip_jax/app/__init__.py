"""A local page to play with: what an id means, shown by the models themselves."""

from toklip_jax.app.models import Models, load_models
from toklip_jax.app.server import Limits, build, listening, serve

__all__ = ["Limits", "Models", "build", "listening", "load_models", "serve"]
