"""What an experiment is: read, checked and compared as plain data, without torch."""
