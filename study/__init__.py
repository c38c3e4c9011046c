"""Running search spaces with Ray Tune, with MLflow as ledger."""
