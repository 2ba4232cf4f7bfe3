"""Whether a candidate may take the released version's place."""
