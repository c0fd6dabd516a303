"""Shards written by hand, for tests of what reads them."""

import io
import tarfile


def write_shard(path, members, **options):
    """A tar of (name, bytes) in this order; ``options`` are tarfile's. Returns its name."""
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return str(path)
