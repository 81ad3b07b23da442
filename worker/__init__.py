"""The online half of mien: feeds in, faces found, expressions named, events out."""
