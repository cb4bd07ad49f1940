"""What the state machine's server says to the pack's own Runware, WaveSpeed and fal: just enough to be paid, to lose an
answer, and to be asked for the job again. The strict stand-ins, with every rule of a contract, are in tests/standins."""

import fake_provider

LOSES_ANSWER = ("reset_after", "malformed")
WAVESPEED_MODEL = "wavespeed-ai/flux-krea-dev-lora"
FAL_APP = "/fal-ai/flux-krea-lora"


def of_payload(payload):
    return payload["seed"], payload["n"]


class Handler(fake_provider.Handler):
    """As its parent; it knows whose answer it loses, and a finished job is not cancelled."""

    def do_POST(self):
        path = self.path
        if path == "/v1":
            return self.runware()
        if path.startswith("/api/v3/"):
            return self.wavespeed(path.removeprefix("/api/v3/"))
        if path == FAL_APP:
            return self.fal()
        super().do_POST()

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith("/api/v3/predictions/"):
            return self.wavespeed_prediction(path.split("/")[4])
        if path.startswith(f"{FAL_APP}/requests/"):
            return self.fal_request(*path.removeprefix(f"{FAL_APP}/requests/").split("/"))
        if path == "/v1/models/requests/by-endpoint":
            return self.fal_history()
        super().do_GET()

    def do_PUT(self):
        self.cancel(self.path.split("/")[-2])

    def do_DELETE(self):
        self.cancel(self.path.rsplit("/", 1)[1])

    def cancel(self, job_id):
        job = self.server.jobs[job_id]
        with self.server.lock:
            is_late = self.server.is_done(job) or self.server.goes_on
            if not is_late and job["id"] not in self.server.cancelled:
                self.server.cancelled.append(job["id"])
        self.begin("cancel")
        self.answer(400 if is_late and not self.server.goes_on else 202, {})

    def accepted(self, payload):
        """The job of a paid call; None where that was answered by a fault."""
        fault = self.next_fault("submit")
        if fault and fault not in LOSES_ANSWER:
            return self.misbehave(fault)
        job = self.server.accept(payload)
        if fault:
            self.server.lost.add(of_payload(payload))
            return self.misbehave(fault)
        return job

    def is_faulty(self, kind):
        fault = self.next_fault(kind)
        if fault:
            self.misbehave(fault)
        return bool(fault)

    def picture(self, job):
        return self.server.result(job)["pictures"][0]

    # Runware

    def runware(self):
        (task,) = self.begin("task")
        kind, name = task["taskType"], {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}
        job = self.server.by_uuid.get(task["taskUUID"])
        if kind == "imageInference":
            return self.runware_order(task, name, job)
        if self.is_faulty("poll" if kind == "getResponse" else "list"):
            return
        made = {**name, "taskType": "imageInference"}
        is_done = job is not None and self.server.is_done(job)
        if is_done:
            made |= {"imageURL": self.picture(job), "seed": task.get("seed"), "cost": 0.0098, "status": "success"}
        data = [made if is_done else {**made, "status": "processing"}] if job else []
        if kind == "getTaskDetails":
            data = [{**name, "request": [], "response": {"data": data}}] if is_done else []
        self.answer(200, {"data": data})

    def runware_order(self, task, name, job):
        if job:
            return self.answer(400, {"errors": [{"code": "conflictTaskUUID", "message": "it is here", **name}]})
        fault = self.next_fault("submit")
        if fault and fault not in LOSES_ANSWER:
            return self.misbehave(fault)
        payload = {"seed": task["seed"], "n": task["numberResults"]}
        self.server.by_uuid[task["taskUUID"]] = self.server.accept(payload)
        if fault:
            self.server.lost.add(of_payload(payload))
            return self.misbehave(fault)
        self.answer(200, {"data": [name]})

    # WaveSpeed

    def wavespeed(self, path):
        kinds = {"model/price": "upload", "predictions": "list", "billings/search": "bill", WAVESPEED_MODEL: "submit"}
        body = self.begin(kinds[path])
        if path == WAVESPEED_MODEL:
            job = self.accepted({"seed": body["seed"], "n": 1, "input": body})
            return self.answer(200, {"data": {"id": job["id"]}}) if job else None
        if self.is_faulty(kinds[path]):
            return None
        with self.server.lock:
            listed = [{"id": job["id"]} for job in self.server.jobs.values() if "input" in job["payload"]][::-1]
        data = {
            "model/price": {"price": 0.025, "currency": "USD"},
            "predictions": {"items": listed},
            "billings/search": {"items": []},
        }
        self.answer(200, {"data": data[path]})

    def wavespeed_prediction(self, job_id):
        self.begin("poll")
        if self.is_faulty("poll"):
            return
        job = self.server.jobs[job_id]
        is_done = self.server.is_done(job)
        outputs = [self.picture(job)] if is_done else []
        status = "completed" if is_done else "processing"
        self.answer(
            200, {"data": {"id": job_id, "input": job["payload"]["input"], "outputs": outputs, "status": status}}
        )

    # fal's app for LoRAs

    def fal(self):
        body = self.begin("submit")
        job = self.accepted({"seed": body["seed"], "n": body["num_images"], "json_input": body})
        if job:
            base = f"https://queue.fal.run{FAL_APP}/requests/{job['id']}"
            urls = {"status_url": f"{base}/status", "response_url": base, "cancel_url": f"{base}/cancel"}
            self.answer(200, {"request_id": job["id"], **urls})

    def fal_request(self, job_id, status=""):
        self.begin("poll")
        if self.is_faulty("poll"):
            return
        job = self.server.jobs[job_id]
        is_cancelled = job_id in self.server.cancelled
        ended = {"error": "Request was cancelled", "error_type": "client_cancelled"} if is_cancelled else {}
        if status:
            is_over = is_cancelled or self.server.is_done(job)
            return self.answer(200, {"status": "COMPLETED" if is_over else "IN_PROGRESS", **ended})
        if is_cancelled:
            return self.answer(499, ended)
        result = self.server.result(job)
        images = [{"url": url} for url in result["pictures"]]
        self.answer(200, {"images": images, "seed": result["seed"], "has_nsfw_concepts": [False] * len(images)})

    def fal_history(self):
        self.begin("list")
        if self.is_faulty("list"):
            return
        with self.server.lock:
            jobs = [job for job in self.server.jobs.values() if "json_input" in job["payload"]]
        items = [{"request_id": job["id"], "json_input": job["payload"]["json_input"]} for job in jobs]
        self.answer(200, {"items": items, "has_more": False, "next_cursor": None})
