"""Statistics: arrays and frames in, frames out; no text, no drawing."""
