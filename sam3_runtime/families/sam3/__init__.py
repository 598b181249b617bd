"""SAM3: every instance of a concept, given in words or by example boxes."""
