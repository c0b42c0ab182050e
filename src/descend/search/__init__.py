"""The search for update rules: spaces of formulas, policies that propose from them, and their evaluation."""
