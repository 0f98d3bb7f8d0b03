"""One run: what is asked, planned, predicted, ordered, gated, sampled, journalled and resumed."""
