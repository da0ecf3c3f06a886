"""The data doctor (``nanogfl check``): check every picture and annotation, report problems, and recommend fixes."""
