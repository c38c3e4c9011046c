"""The datasets: where images come from, how they are prepared, and which of them a trial uses."""
