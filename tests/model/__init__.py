"""The composed model: built from folders, configured, laid out, cached, generating, processing."""
