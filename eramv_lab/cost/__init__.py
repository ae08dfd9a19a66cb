"""Cost: three witnesses of a recipe's price that must agree, and the equal-FLOPs solver.

`formula`, `conventions` and `budget` import no torch; `count` and `measure` do.
"""
