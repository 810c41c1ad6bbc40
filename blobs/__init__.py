"""Bytes kept outside the ledger, named by their sha256: a local folder, S3, GCS or Azure.

The only package that knows obstore.
"""

from blobs.blobs import BLOB_BYTES_MAX, BlobMissing, Blobs, NewBlob

__all__ = ["BLOB_BYTES_MAX", "BlobMissing", "Blobs", "NewBlob"]
