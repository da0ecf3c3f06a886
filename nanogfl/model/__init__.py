"""The network: torch only, no Lightning, no OpenCV, no data."""
