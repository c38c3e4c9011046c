"""The datasets: where images come from, and which of them a trial sees."""
