"""The rungs of the ladder that `verify` climbs, each a generator of rows; one file, one kind of proof."""
