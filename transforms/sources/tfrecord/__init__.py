"""TFRecord: records found in plain, compressed and damaged files, and the Examples in them."""
