"""Use of exported files without torch: sessions, metadata, drawing, frames, cameras and the web server."""
