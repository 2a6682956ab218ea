"""Atomic writes, and checkpoints: plain torch files, checked before they are loaded."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import torch


def write(path, content):
    """Write bytes to a temporary name and move them into place: no reader ever sees half a file.

    Raises OSError with one sentence that names `path`; what was there before is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f'{path}: could not be written ({error.strerror})') from error


def write_json(path, header, records):
    """Write {**header, "runs": records} as JSON, one record per line."""
    lines = ',\n'.join(json.dumps(record, allow_nan=False) for record in records)
    write(path, f'{json.dumps(header)[:-1]},\n"runs": [\n{lines}\n]}}\n'.encode())


def save_checkpoint(path, checkpoint):
    """Save a dictionary of tensors and plain values, as `torch.load(weights_only=True)` reads."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    write(path, buffer.getvalue())


def load_checkpoint(path):
    """Load what `save_checkpoint` wrote.

    Raises FileNotFoundError, and ValueError with one sentence for a damaged or foreign file. The
    checksums of its archive are tested first, because `torch.load` does not look at them.
    """
    content = Path(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
        checkpoint = None if damaged else torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # zipfile and torch let many kinds of error escape from a damaged file
        checkpoint = None
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path}: damaged, truncated or not a checkpoint')
    return checkpoint


def hash_file(path):
    """Return the SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def training_state(model, averaged, optimizer, device):
    """Return weights, optimizer state and random generators, with all tensors on the CPU.

    `averaged` is the `torch.optim.swa_utils.AveragedModel` of `model`.
    """
    generators = [torch.get_rng_state()]
    if torch.device(device).type == 'cuda':
        generators.append(torch.cuda.get_rng_state(device))
    return {'state_dict': to_cpu(model.state_dict()),
            'averaged': to_cpu(averaged.module.state_dict()),
            'optimizer': to_cpu(optimizer.state_dict()), 'generators': generators}


def restore_training_state(state, model, averaged, optimizer, device):
    """Restore what `training_state` returned, so that training continues bit for bit."""
    model.load_state_dict(state['state_dict'], strict=True)
    averaged.module.load_state_dict(state['averaged'], strict=True)
    averaged.n_averaged.fill_(1)  # the average has begun; its count is not used otherwise
    optimizer.load_state_dict(state['optimizer'])
    torch.set_rng_state(state['generators'][0])
    if torch.device(device).type == 'cuda':
        torch.cuda.set_rng_state(state['generators'][1], device)


def to_cpu(state):
    """Copy a state dict, nested as an optimizer's is, to the CPU."""
    if isinstance(state, dict):
        return {key: to_cpu(value) for key, value in state.items()}
    return state.cpu() if torch.is_tensor(state) else state
