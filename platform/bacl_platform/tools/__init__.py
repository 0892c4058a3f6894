"""What answers one question without training: a file for each."""
