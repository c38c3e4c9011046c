"""Running search spaces with Ray Tune, with MLflow as ledger."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The folder with this project's packages."""
