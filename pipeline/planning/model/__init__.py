"""Opening and checking the model while a run is planned."""
