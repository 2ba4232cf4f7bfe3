"""Makes bundles: from a folder of images to a fine-tuned network, exported and gated."""
