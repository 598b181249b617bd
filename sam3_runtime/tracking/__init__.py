"""Identities through time: ``tracker`` decides which detection is which thing, ``motion`` says where things go, and
``overlap`` how much they cover each other. Knows detections, and neither engines nor sources.
"""
