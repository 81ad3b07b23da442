"""The offline half of mien: data -> models -> train -> evaluate -> export."""
