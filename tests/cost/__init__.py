"""Cost: three witnesses of a price that must agree."""
