"""MLflow as the ledger, for whoever reads or writes it: study and analysis stand on this room."""
