"""Files and cameras: where images come from and go to."""
