"""The complete map of the simplest rules: every sentence of one group, told apart, screened and trained."""
