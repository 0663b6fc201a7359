"""Imports TorchRec, and keeps from the user what it says of its own use of torch and FBGEMM.

To be imported before anything of TorchRec. Each silence is of one message that nobody can act on;
"kernel is dense" and the like stay loud.
"""

import logging
import warnings

with warnings.catch_warnings():
    # FBGEMM's CPU build lacks its SSD variants, and TorchRec 1.8 imports it by an old name.
    warnings.simplefilter("ignore", DeprecationWarning)
    import torchrec  # noqa: F401


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("is_fx_tracing will return true")


logging.getLogger("torch.fx._symbolic_trace").addFilter(_is_news)
for _message in (
    r"`torch\.distributed\.(reduce_scatter|all_gather_into)_tensor` is deprecated",
    r"`broadcast_buffers` is deprecated",
    r"Please use DTensor instead and we are deprecating ShardedTensor",
):
    warnings.filterwarnings("ignore", _message, FutureWarning)
