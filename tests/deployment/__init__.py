"""What ships beside the package: the compose file, the image's recipe, the example."""
