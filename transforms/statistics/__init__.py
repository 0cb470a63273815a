"""Statistics of audits: forecasts from earlier nights, sequential and paired tests, several tests at once."""
