"""The command line: options, the parsed invocation, progress, and the summary at the end."""
