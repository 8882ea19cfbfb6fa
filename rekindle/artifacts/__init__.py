"""The embedded artifact store: the part of S3's wire that the AWS CLI, boto3 and the JS SDK use by default.

Objects are rows (`index.py`), their bytes are blob files named by uuid (`blobs.py`): no key ever becomes a path.
Nothing becomes visible before its body was checked against every hash that came with it, synced and committed.
"""

from rekindle.artifacts.app import make_app
from rekindle.artifacts.limits import Limits

__all__ = ["Limits", "make_app"]
