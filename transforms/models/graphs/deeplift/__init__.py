"""DeepLIFT's rules on a traced graph."""
