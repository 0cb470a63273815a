"""The data that report sections draw: tables of a run, sampled rows, chosen examples."""
