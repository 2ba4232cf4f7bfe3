"""What is told to TensorBoard and MLflow while a run is trained. Neither can end a training."""
