"""Ray: the connection, its nodes, the queue of trials, and running them."""
