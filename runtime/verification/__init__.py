"""Is an exported bundle still the specification's model? In: a bundle, and its source and a text if they are
at hand. Out: a `Report` with one row per figure, and certificate.json in the bundle where no row failed.
"""
