"""The work on one shard: read, explain, write, and note it in the journal."""
