"""Tracks of detections through the frames of a source.

``tracker`` assigns ids, ``motion`` predicts boxes, ``overlap`` compares boxes and masks, ``assignment`` pairs tracks
with detections.
"""
