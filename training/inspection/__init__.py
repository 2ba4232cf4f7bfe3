"""What is wrong and what is remarkable with DATA, before anything is trained on it."""
