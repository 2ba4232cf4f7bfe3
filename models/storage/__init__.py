"""Where a store keeps its bundles: a folder, or the objects below a URL."""
