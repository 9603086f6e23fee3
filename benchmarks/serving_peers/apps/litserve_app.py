"""The LitServe peer's program."""

# mypy: ignore-errors
# Its package and types are installed only in the peers' environment.

import os

import litserve
import torch

from benchmarks.serving_peers.apps import model

BATCH = int(os.environ["SERVING_BATCH"])


class Served(litserve.LitAPI):
    def setup(self, device):  # noqa: ARG002 -- LitServe calls it with this argument
        self.network = model.load()

    def decode_request(self, request):
        if model.workload() == "image":
            return model.decode(request["image"].file.read())
        return torch.tensor(request["input_data"])

    def batch(self, inputs):
        return inputs if model.workload() == "image" else torch.stack(inputs)

    def predict(self, inputs):
        batch = inputs if BATCH > 1 else [inputs]
        if model.workload() == "image":
            answers = model.classify(self.network, batch)
        else:
            answers = model.numbers(self.network, batch if BATCH > 1 else inputs[None])
        return answers if BATCH > 1 else answers[0]

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


if __name__ == "__main__":
    api = Served(max_batch_size=BATCH, batch_timeout=float(os.environ.get("SERVING_DELAY_S", "0.005")) if BATCH > 1 else 0.0)
    workers = int(os.environ["SERVING_PROCESSES"])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=int(os.environ["SERVING_PORT"]), log_level="warning", generate_client_file=False)
