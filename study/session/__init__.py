"""One invocation that trains: what it would run, and the session that runs it."""
