"""Access to files at local paths and URLs, digests of files, and files kept open between pieces of work."""
