"""Opens and checks the model while a run is planned."""
