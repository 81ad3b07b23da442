"""The online half of mien: feeds in, faces found, expressions named, events out."""

import os

# Pictures come from strangers: OpenCV reads this when it is loaded, before it decodes anything. It
# is worker.config.MAX_PIXELS, which cannot be imported this early.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(7680 * 4320))
