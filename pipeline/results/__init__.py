"""Reading a committed run: importance, attributions, single examples, shap.Explanation."""
