"""Tables and pages from the records of a work folder."""
