"""What people read about a run or a bundle: the HTML report, the model card."""
