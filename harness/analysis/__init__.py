"""What a run says: ratios with intervals, shares of ceilings, ladder, ledger; values, never texts."""
