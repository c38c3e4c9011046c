"""Writing the ledger: events, the one writer, locks."""
