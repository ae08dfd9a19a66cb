"""Images, questions and features: the made world, shards, streams, the loader."""

import os

os.environ.setdefault("WDS_SECURE", "1")  # webdataset then runs no command and unpickles nothing
