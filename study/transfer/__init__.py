"""Studies on their way from one ledger to another: archives, what they hold, and taking them in."""
