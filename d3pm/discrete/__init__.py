"""The discrete wing: D3PM and what only it has."""
