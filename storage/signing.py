"""Signed requests to an S3 server: AWS Signature Version 4, with the standard library alone.

Source: "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API reference.
"""

import hashlib
import hmac
import http.client
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self
from urllib.parse import quote, urlsplit

from features.errors import ConfigError

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who asks, and which server."""

    access_key: str
    secret_key: str
    session_token: str | None
    region: str
    endpoint: str
    """Scheme and host, without a path."""

    @classmethod
    def from_environment(cls) -> Self:
        """Reads the variables of the AWS tools; ConfigError where there are no credentials.

        AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION or
        AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL.
        """
        get = os.environ.get
        access_key, secret_key = get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")
        if not access_key or not secret_key:
            raise ConfigError(
                "s3:// needs credentials, and the environment has none",
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY on every machine of the run",
            )
        region = get("AWS_REGION") or get("AWS_DEFAULT_REGION") or "us-east-1"
        endpoint = (
            get("AWS_ENDPOINT_URL_S3")
            or get("AWS_ENDPOINT_URL")
            or f"https://s3.{region}.amazonaws.com"
        )
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc:
            raise ConfigError(
                f"AWS_ENDPOINT_URL is {endpoint!r}", "give it as https://HOST or http://HOST:PORT"
            )
        return cls(
            access_key=access_key,
            secret_key=secret_key,
            session_token=get("AWS_SESSION_TOKEN") or None,
            region=region,
            endpoint=endpoint.rstrip("/"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server said."""

    status: int
    etag: str
    body: bytes


def send(
    account: Account,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes = b"",
    *,
    timeout_s: float = 20.0,
) -> Answer:
    """Sends one request for /bucket/key; raises OSError where no answer comes."""
    url = urlsplit(account.endpoint)
    target = quote(path, safe="/-_.~")
    signed = signed_headers(account, method, target, headers, body, datetime.now(UTC))
    connect = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = connect(url.netloc, timeout=timeout_s)
    try:
        connection.request(method, target, body, signed)
        response = connection.getresponse()
        return Answer(
            status=response.status, etag=response.getheader("ETag", ""), body=response.read()
        )
    except http.client.HTTPException as exc:
        raise OSError(f"no answer from {account.endpoint}: {exc!r}") from exc
    finally:
        connection.close()


def signed_headers(
    account: Account,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    now: datetime,
) -> dict[str, str]:
    """Returns the headers of a request without a query, its signature among them."""
    digest = hashlib.sha256(body).hexdigest()
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    full = {name.lower(): value for name, value in headers.items()}
    full |= {
        "host": urlsplit(account.endpoint).netloc,
        "x-amz-content-sha256": digest,
        "x-amz-date": moment,
    }
    if account.session_token:
        full["x-amz-security-token"] = account.session_token
    names = ";".join(sorted(full))
    lines = "".join(f"{name}:{full[name].strip()}\n" for name in sorted(full))
    request = f"{method}\n{target}\n\n{lines}\n{names}\n{digest}"
    scope = f"{day}/{account.region}/s3/aws4_request"
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{account.secret_key}".encode()
    for part in (day, account.region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    full["authorization"] = (
        f"{_ALGORITHM} Credential={account.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return full
