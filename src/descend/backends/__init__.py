"""What runs a formula: one file per backend, all reading the same graph."""
