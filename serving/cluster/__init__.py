"""`python -m serving predict --ray`: many images on the machines of a Ray cluster."""
