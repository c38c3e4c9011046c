"""Reading the ledger: tables, figures, report. Imports neither PyTorch nor Ray."""
