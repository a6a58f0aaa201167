# SPDX-License-Identifier: Apache-2.0
"""Images made by hand: layers as tar files of any shape, OCI layouts with any lie in them."""

import gzip
import hashlib
import io
import json
import os
import tarfile

OCI = "application/vnd.oci.image."
TAR = OCI + "layer.v1.tar"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def layer_tar(*entries, **more):
    """A tar of entries: (name, data), (name, type, target), a TarInfo, or (TarInfo, data)."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT, **more) as tar:
        for entry in entries:
            data = b""
            if isinstance(entry, tarfile.TarInfo):
                info = entry
            elif isinstance(entry[0], tarfile.TarInfo):
                info, data = entry
            else:
                info = tarfile.TarInfo(entry[0])
                if len(entry) == 3:
                    info.type, info.linkname = entry[1:]
                else:
                    data = entry[1]
            if info.size and not data:  # a lie: the bytes do not follow
                raw.write(info.tobuf(tarfile.GNU_FORMAT))
                continue
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return raw.getvalue()


def gz(data):
    return gzip.compress(data, mtime=0)


class Layout:
    """An OCI layout.  Every part may be replaced before write ()."""

    def __init__(self, layers, media_type=TAR, config=None):
        """layers: bytes of each blob."""
        self.blobs = {}  # digest in hex: bytes
        self.layers = [self.add(data, media_type) for data in layers]
        self.image = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": [d["digest"] for d in self.layers]},
        }
        self.config = None  # bytes instead of `image`

    def add(self, data, media_type):
        """A blob; its descriptor."""
        digest = sha256(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    def config_bytes(self):
        return json.dumps(self.image).encode() if self.config is None else self.config

    def manifest(self):
        """The bytes of the manifest."""
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI + "manifest.v1+json",
                "config": self.add(self.config_bytes(), OCI + "config.v1+json"),
                "layers": self.layers,
            }
        ).encode()

    def names(self):
        """What messages call the layers: the first twelve digits of their digests."""
        return [d["digest"][:19] for d in self.layers]

    def write(self, path, tag="t", manifest=None, top_type=OCI + "manifest.v1+json"):
        """Write it to a folder; the reference of its image."""
        path = str(path)
        self.path = path
        self.top = self.add(manifest if manifest is not None else self.manifest(), top_type)
        top = {**self.top, "annotations": {"org.opencontainers.image.ref.name": tag}}
        os.makedirs(f"{path}/blobs/sha256", exist_ok=True)
        for digest, data in self.blobs.items():
            with open(f"{path}/blobs/sha256/{digest}", "wb") as f:
                f.write(data)
        with open(f"{path}/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": [top]}, f)
        with open(f"{path}/oci-layout", "w") as f:
            json.dump({"imageLayoutVersion": "1.0.0"}, f)
        return f"oci:{path}:{tag}"
