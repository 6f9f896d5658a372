"""Training a SigLIP teacher."""
