"""Images, questions and features: the made world, shards, the loader."""
