"""Scores."""

# The measures of a factor in a record's scores, and the place of the pixels themselves.
WEIGHT, RELATIVE, PREDICTED = "factor weight", "factor weight, relative", "factor weight, predicted"


LEFT_OUT = "factor weight left out, association"


IMAGES = "images"
