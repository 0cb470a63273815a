"""Matching a file's columns to a model's inputs."""
