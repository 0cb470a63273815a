"""Input files: finding, inspecting, cutting into shards and reading them."""
