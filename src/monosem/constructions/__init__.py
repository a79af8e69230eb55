"""What attention heads can compute: neurons, linear maps, masks and boolean selections, built as weights."""
