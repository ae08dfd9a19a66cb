"""Other people's tools that run a model of ours; each is an extra and is imported by them."""
