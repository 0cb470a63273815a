"""TFRecord: finding records in plain, compressed and damaged files, and reading the Examples in them."""
