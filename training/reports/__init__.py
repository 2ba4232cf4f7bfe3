"""What people read of a run or a bundle: the HTML report, the model card."""
