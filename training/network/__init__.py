"""The ResNet: torchvision's, with its pretrained weights, and what is exported of it."""
