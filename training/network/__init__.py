"""The ResNet: torchvision's, its pretrained weights, and the form that is exported."""
