"""Rewrites of traced graphs: inlined calls, custom gradients, grouped convolutions, mixed precision."""
