"""The work on one shard: reading, explaining, writing, and noting the result in the journal."""
