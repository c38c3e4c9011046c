"""What one trial is and does."""
