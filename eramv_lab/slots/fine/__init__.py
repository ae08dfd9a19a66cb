"""Fine features: what a band can read."""
