"""The command line: options, what they mean, progress and the closing lines."""
