"""Drawing: frames in, matplotlib figures out."""
