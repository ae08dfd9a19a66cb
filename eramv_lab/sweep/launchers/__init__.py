"""What starts the workers of a sweep, one engine a file; none is imported before it is used."""
