"""What was found: tables, plots and the comparison of arms, read from run folders alone."""
