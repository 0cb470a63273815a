"""TFRecord: records found in plain, gzipped and damaged files, and the Examples in them."""
