"""LitServe with batches of up to 8, its fast queue, and as many HTTP servers as workers.

python lit_server.py PORT
"""

import os
import sys

import litserve
from model import Model


class Api(litserve.LitAPI):
    """Takes the field `xray` of a form."""

    def setup(self, _):
        """Open the model."""
        self.model = Model()

    def decode_request(self, request):
        """Return the file's bytes."""
        return request["xray"].file.read()

    def batch(self, inputs):
        """Leave them as they are: the model stacks what it decodes."""
        return inputs

    def predict(self, contents):
        """Return what is said of each."""
        return self.model.of_files(contents)

    def unbatch(self, output):
        """Leave them as they are."""
        return output

    def encode_response(self, output):
        """Leave it as it is."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=8),
        accelerator="cpu",
        workers_per_device=int(os.environ["WORKERS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
