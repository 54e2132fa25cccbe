"""Models of how data arise: latent-variable models and flows."""
