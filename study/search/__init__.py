"""Optuna suggests configurations, ASHA stops trials early."""
