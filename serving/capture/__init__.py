"""Keeping some of the images that are answered, to train on later."""
