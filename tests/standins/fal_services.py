"""What fal offers beside its queue: storage for input pictures, prices, the balance."""

import time
import uuid

from .fal_apps import price_of
from .messages import Reply, Request
from .provider import Provider, Route

SERVICE_ROUTES = (
    Route("POST", "/storage/auth/token", "upload", "upload_token"),
    Route("POST", "/files/upload", "upload", "upload", open=True),
    Route("POST", "/storage/upload/initiate", "upload", "initiate"),
    Route("PUT", r"/storage/put/([\w.-]+)", "upload", "put", open=True),
    Route("GET", "/v1/models/pricing", "account", "pricing"),
    Route("POST", "/v1/models/pricing/estimate", "account", "estimate"),
    Route("GET", "/v1/account/billing", "account", "billing"),
)


class FalServices(Provider):
    def upload_token(self, request: Request) -> Reply:
        if request.query.get("storage_type") != "fal-cdn-v3":
            self.refuse(400, "storage_type must be fal-cdn-v3")
        expiry = _iso_after(3600)
        return Reply.of(
            {"token": "test-upload", "token_type": "Bearer", "base_url": "https://v3.fal.media", "expires_at": expiry}
        )

    def upload(self, request: Request) -> Reply:
        if request.headers.get("Authorization") != "Bearer test-upload":
            self.refuse(401)
        if (
            not request.content_type.startswith("image/")
            or "X-Fal-File-Name" not in request.headers
            or not request.body
        ):
            self.refuse(400, "an upload needs an image Content-Type, X-Fal-File-Name and a body")
        url = f"https://v3.fal.media/files/test/{uuid.uuid4().hex}_{request.headers['X-Fal-File-Name']}"
        self.uploads[url] = request.body
        return Reply.of({"access_url": url})

    def initiate(self, request: Request) -> Reply:
        given = request.json()
        if not isinstance(given, dict) or set(given) != {"file_name", "content_type"}:
            self.refuse(422)
        name = f"{uuid.uuid4().hex}.{given['content_type'].split('/')[-1]}"
        return Reply.of(
            {
                "upload_url": f"https://rest.fal.ai/storage/put/{name}",
                "file_url": f"https://v3.fal.media/files/test/{name}",
            }
        )

    def put(self, request: Request, name: str) -> Reply:
        if "Authorization" in request.headers or request.content_type.split("/")[-1] != name.split(".")[-1]:
            self.refuse(403, "SignatureDoesNotMatch")
        self.uploads[f"https://v3.fal.media/files/test/{name}"] = request.body
        return Reply(200)

    # Platform

    def pricing(self, request: Request) -> Reply:
        ids = request.query.get("endpoint_id", "").split(",")
        if None in map(price_of, ids):
            self.refuse(404, "No such endpoint")
        rows = [
            {"endpoint_id": each, "unit_price": price_of(each), "unit": "megapixels", "currency": "USD"} for each in ids
        ]
        return Reply.of({"prices": rows, "next_cursor": None, "has_more": False})

    def estimate(self, request: Request) -> Reply:
        given = request.json()
        if not isinstance(given, dict) or given.get("estimate_type") != "unit_price":
            self.refuse(400, "estimate_type must be unit_price")
        if None in map(price_of, given["endpoints"]):
            self.refuse(404, "No such endpoint")
        total = sum(price_of(name) * each["unit_quantity"] for name, each in given["endpoints"].items())
        return Reply.of({"estimate_type": "unit_price", "total_cost": total, "currency": "USD"})

    def billing(self, request: Request) -> Reply:
        body = {"username": "test"}
        if request.query.get("expand") == "credits":
            body["credits"] = {"current_balance": self.settings["balance"], "currency": "USD"}
        return Reply.of(body)


def _iso_after(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
