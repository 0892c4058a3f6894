"""Commands that need no training and answer one question each, a file for each."""
