"""What a key's policy lets it do in the artifact store: S3's own actions and ARNs (IAM user guide, "Actions for S3").

Other accounts' buckets are out of reach whatever a policy says: that is `Service.bucket`.
"""

from __future__ import annotations

from rekindle.artifacts.errors import S3Error
from rekindle.artifacts.wire import Request
from rekindle.core import policy as policies
from rekindle.core.arrival import condition_keys
from rekindle.core.policy import Ask, Verdict

#: Operation (the function's name) to action and whether the resource is the object, the bucket or everything.
ACTIONS = {
    "list_buckets": ("s3:ListAllMyBuckets", "*"),
    "create_bucket": ("s3:CreateBucket", "bucket"),
    "head_bucket": ("s3:ListBucket", "bucket"),
    "delete_bucket": ("s3:DeleteBucket", "bucket"),
    "get_location": ("s3:GetBucketLocation", "bucket"),
    "list_objects": ("s3:ListBucket", "bucket"),
    "list_objects_v2": ("s3:ListBucket", "bucket"),
    "list_uploads": ("s3:ListBucketMultipartUploads", "bucket"),
    "put_object": ("s3:PutObject", "object"),
    "get_object": ("s3:GetObject", "object"),
    "head_object": ("s3:GetObject", "object"),
    "delete_object": ("s3:DeleteObject", "object"),
    "copy_object": ("s3:PutObject", "object"),
    "create": ("s3:PutObject", "object"),
    "upload_part": ("s3:PutObject", "object"),
    "upload_part_copy": ("s3:PutObject", "object"),
    "complete": ("s3:PutObject", "object"),
    "abort": ("s3:AbortMultipartUpload", "object"),
    "list_parts": ("s3:ListMultipartUploadParts", "object"),
}
#: Asked key by key, where the keys are known.
PER_KEY = "delete_objects"


def check_operation(name: str, request: Request) -> None:
    """Raises S3Error AccessDenied unless the caller's policy allows the operation."""
    if name == PER_KEY:
        return
    action, on = ACTIONS[name]
    resource = "*"
    if on != "*":
        resource = f"arn:aws:s3:::{request.bucket}" + (f"/{request.key}" if on == "object" else "")
    _check(request, action, resource)


def check_object(request: Request, action: str, bucket: str, key: str) -> None:
    """As `check_operation`, for an object that the path does not name: a copy's source, one of many to delete."""
    _check(request, action, f"arn:aws:s3:::{bucket}/{key}")


def _check(request: Request, action: str, resource: str) -> None:
    caller = request.caller
    if caller.policy is None:
        return
    ask = Ask(action, resource, _context(request))
    verdict = policies.parse(caller.policy).judge(ask)
    if verdict is not Verdict.ALLOWED:
        raise S3Error("AccessDenied", policies.refusal(caller.principal, ask, verdict, quote='"'))


def _context(request: Request) -> dict[str, str]:
    """The keys of every request, and those of S3 that are parameters of lists."""
    caller, region = request.caller, request.signature.region
    keys = condition_keys(caller.account, caller.principal, caller.key_id, region, request.came, request.at_ms)
    listed = {"s3:prefix": "prefix", "s3:delimiter": "delimiter", "s3:max-keys": "max-keys"}
    return keys | {key: request.query[name] for key, name in listed.items() if name in request.query}
