"""Pictures: preprocessing, masks, drawing."""
