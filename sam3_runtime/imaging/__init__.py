"""Images: preprocessing, masks, drawing."""
