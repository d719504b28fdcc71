"""One concept a file, functions of arrays: what every component of a transformer computes."""
