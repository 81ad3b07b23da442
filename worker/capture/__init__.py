"""Sources (file, folder, camera, URL) -> frames -> the feed's stream, under its policy."""
