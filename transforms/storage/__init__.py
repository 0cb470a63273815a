"""Storage: opening and writing paths and URLs, digests of files, and files kept open between pieces."""
