"""Time one training step of the proximal layers as a multiple of nn.LSTM's, measured side by side.

    python -m benchmarks.prox_lstm      # a table, and plots/prox_lstm.png
    python -m benchmarks.prox_lstm --sizes 64,50,14 --epsilon 2 --device cuda --no-figure
    python -m benchmarks.prox_lstm --checkpoint checkpoints/prox_epsilon5.0_seed0.pt

A training step is a forward pass and the gradients of a random combination of all outputs with
respect to the input and the parameters, in float32 and on one thread. Every repetition times each
layer once (ProxLSTMCell only in the first two if H·T >= 1000), on the same weights and data, and
its ratio is that repetition's. The weights are nn.LSTM's at initialization, scaled so that the
largest λ_max(G Gᵀ) of the sequence is 1, or those of a checkpoint, which are measured on a
minibatch of the default data with the epsilon of their training. The error is the largest relative
error ‖g − g*‖ / ‖g*‖ of a gradient, g* being ProxLSTMCell's in float64. "saved" is what autograd
keeps for the backward pass, in units of T·B·(H + D) floats.
"""

import argparse
import math
import platform
import statistics
import time
from pathlib import Path
from unittest import mock

import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

from Classifier import LSTMClassifier
from load_data import load_data
from ProxLSTM import Cholesky, ProxLSTM, ProxLSTMCell, describe_solver, make_solver
from support.figures import save_figure
from support.options import ROOT, add_device_argument, positive, positive_int
from support.program import run_program

SIZES = [(64, 50, 14), (64, 512, 14), (512, 512, 14), (64, 50, 200)]
BATCH = 27


def loop(cell, input):
    """Run an LSTM cell over input [T, B, D] and return every step's h [T, B, H]."""
    state, output = None, []
    for v in input:
        state = cell(v, state)
        output.append(state[0])
    return torch.stack(output)


def largest_eigenvalue(lstm, input, factor):
    """Compute max over samples and steps of λ_max(G Gᵀ) with all weights multiplied by `factor`."""
    H = lstm.hidden_size
    weight_ih, weight_hh, bias_ih, bias_hh = (factor * x.detach() for x in lstm.parameters())
    W = weight_ih[:3 * H]
    h = c = input.new_zeros(input.shape[1], H)
    alphas = []
    for v in input:
        i, f, g, o = (v @ weight_ih.T + h @ weight_hh.T + bias_ih + bias_hh).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        alphas.append(torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], 1))
        c = f * c + i * g
        h = o * c.tanh()
    alpha = torch.cat(alphas)
    x = torch.ones_like(alpha[:, 0])
    for _ in range(40):  # power iteration
        y = (alpha * ((alpha * x[:, None]).flatten(1) @ W @ W.T).view_as(alpha)).sum(1)
        eigenvalue, x = y.norm(dim=1), y / y.norm(dim=1, keepdim=True)
    return eigenvalue.max().item()


def scaled_lstm(D, H, T, device):
    """Return an nn.LSTM and input [T, B, D] for which the largest λ_max(G Gᵀ) is 1."""
    torch.manual_seed(0)
    lstm, input = nn.LSTM(D, H).to(device), torch.randn(T, BATCH, D, device=device)
    low, high = 0.05, 50.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        too_small = largest_eigenvalue(lstm, input, middle) < 1
        low, high = (middle, high) if too_small else (low, middle)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(middle)
    return lstm, input


def trained_lstm(path, device):
    """Return a saved classifier's recurrence, what it reads of a minibatch, and its epsilon."""
    model = LSTMClassifier.from_checkpoint(path).train()  # so that it keeps v
    if not model.lstm.epsilon:
        raise ValueError(f'{path}: expected a model of mode ProxLSTM with an epsilon above 0')
    batch = load_data()[0][5]
    model(batch.inputs, batch.lengths)
    lstm = nn.LSTM(model.lstm.input_size, model.lstm.hidden_size)
    lstm.load_state_dict(model.lstm.state_dict())
    input = model.v.detach().transpose(0, 1).contiguous()
    return lstm.to(device), input.to(device), model.lstm.epsilon


def training_step(module, input, weight):
    """Return the gradients with respect to the input and all parameters."""
    leaf = input.detach().requires_grad_()
    output = loop(module, leaf) if isinstance(module, nn.LSTMCell) else module(leaf)[0]
    return torch.autograd.grad((output * weight).sum(), [leaf, *module.parameters()])


def training_step_in_pytorch(module, input, weight):
    """Do the same without the native solver."""
    with mock.patch('ProxLSTM.load_native', lambda: None):
        return training_step(module, input, weight)


def seconds(step, module, input, weight):
    synchronize = torch.cuda.synchronize if input.is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    step(module, input, weight)
    synchronize()
    return time.perf_counter() - start


def saved_floats(module, input):
    """Count the floats that autograd holds after a forward pass, without parameters and input."""
    input = input.clone().requires_grad_()
    own = {x.untyped_storage().data_ptr() for x in (input, *module.parameters())}
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        module(input)
    return sum(size for pointer, size in storages.items() if pointer not in own)


def measure(lstm, input, epsilon, repetitions, cells=True):
    """Return {layer: (ratios to nn.LSTM, gradient error)}, and what ProxLSTM keeps."""
    T, B, D = input.shape
    H = lstm.hidden_size
    weight = torch.randn(T, B, H, device=input.device)
    layer, cell = (kind(D, H, epsilon=epsilon).to(input.device)
                   for kind in (ProxLSTM, ProxLSTMCell))
    for module in (layer, cell):
        for own, parameter in zip(module.parameters(), lstm.parameters()):
            own.data.copy_(parameter.data)
    steps = {'PyTorch': (training_step_in_pytorch, layer, repetitions)}
    if isinstance(make_solver(lstm.weight_ih_l0, torch.tensor(epsilon), B), Cholesky):
        steps['native'] = training_step, layer, repetitions
    if cells:
        steps['ProxLSTMCell'] = training_step, cell, repetitions if H * T < 1000 else 2

    for step, module, _ in [(training_step, lstm, 0), *steps.values()]:
        step(module, input, weight)  # warm up
    ratios = {name: [] for name in steps}
    for repetition in tqdm(range(repetitions), f'D={D} H={H} T={T} ε={epsilon:g}', leave=False):
        own = seconds(training_step, lstm, input, weight)
        for name, (step, module, count) in steps.items():
            if repetition < count:
                ratios[name].append(seconds(step, module, input, weight) / own)

    errors = {}
    if cells:
        exact = training_step(cell.double(), input.double(), weight.double())
        cell.float()
        for name, (step, module, _) in steps.items():
            errors[name] = max(((a - b).norm() / b.norm()).item()
                               for a, b in zip(step(module, input, weight), exact))
    saved = saved_floats(layer, input) / (T * B * (H + D))
    return {name: (ratios[name], errors.get(name)) for name in steps}, saved


def draw(path, epsilon, device, repetitions):
    """Draw the ratio against H and against epsilon."""
    hidden, epsilons = (16, 32, 50, 80, 127, 200, 512), (0.1, 0.3, 1, 3, 10, 30, 100)
    panels = [('H', hidden, f'D = 64, T = 14, ε = {epsilon:g}', [(H, epsilon) for H in hidden]),
              ('ε', epsilons, 'D = 64, H = 50, T = 14', [(50, e) for e in epsilons])]
    figure = Figure(figsize=(10, 4), layout='constrained')
    for ax, (name, values, title, points) in zip(figure.subplots(1, 2), panels):
        results = [measure(*scaled_lstm(64, H, 14, device), e, repetitions, cells=False)[0]
                   for H, e in points]
        for solver, style in (('PyTorch', 's--'), ('native', 'o-')):
            ratios = {x: result[solver][0] for x, result in zip(values, results)
                      if solver in result}
            medians = {x: statistics.median(r) for x, r in ratios.items()}
            whiskers = [[medians[x] - min(r), max(r) - medians[x]] for x, r in ratios.items()]
            if ratios:
                ax.errorbar(*zip(*medians.items()), list(zip(*whiskers)), fmt=style, capsize=3,
                            label=solver)
        ax.set(xscale='log', xlabel=name, ylabel="training step, multiple of nn.LSTM's",
               title=title, ylim=(0, None))
        ax.set_xticks(values, [f'{v:g}' for v in values])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(title='solver')
    figure.suptitle('ProxLSTM: median, smallest and largest ratio')
    save_figure(path, figure)


def size(text):
    D, H, T = map(positive_int, text.split(','))
    return D, H, T


def get_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--sizes', type=size, nargs='+', default=SIZES, metavar='D,H,T',
                        help='input size, hidden size and steps')
    parser.add_argument('--epsilon', type=positive, default=1.0, help='of the scaled weights')
    parser.add_argument('--checkpoint', type=Path, nargs='+', default=[], metavar='PATH',
                        help='also measure the trained models of these files')
    parser.add_argument('--repetitions', type=positive_int, default=15, help='of each timing')
    add_device_argument(parser)
    parser.add_argument('--figure', action=argparse.BooleanOptionalAction, default=True,
                        help='draw prox_lstm.png')
    parser.add_argument('--output-dir', type=Path, default=ROOT,
                        help='the figure is written to plots/ there')
    return parser.parse_args(argv)


def main(args):
    torch.set_num_threads(1)
    cuda = args.device.startswith('cuda')
    machine = torch.cuda.get_device_name(args.device) if cuda else platform.machine()
    print(f'{machine}, 1 thread, torch '
          f'{torch.__version__}, Python {platform.python_version()}; '
          f'B = {BATCH}, {args.repetitions} repetitions, {describe_solver()}\n')
    print('| D, H, T | weights | ε | native | PyTorch | ProxLSTMCell | error, native '
          '| error, PyTorch | saved |\n|---|---|---|---|---|---|---|---|---|')
    cases = [('scaled', *scaled_lstm(*size, args.device), args.epsilon) for size in args.sizes]
    cases += [('trained', *trained_lstm(path, args.device)) for path in args.checkpoint]
    for weights, lstm, input, epsilon in cases:
        results, saved = measure(lstm, input, epsilon, args.repetitions)
        layers = 'native', 'PyTorch', 'ProxLSTMCell'
        ratios = {name: f'{statistics.median(r):.1f} ({min(r):.1f} – {max(r):.1f})'
                  for name, (r, _) in results.items()}
        errors = {name: f'{error:.0e}' for name, (_, error) in results.items()}
        cells = [f'{input.shape[2]}, {lstm.hidden_size}, {len(input)}', weights, f'{epsilon:g}',
                 *(ratios.get(name, '') for name in layers),
                 *(errors.get(name, '') for name in layers[:2]), f'{saved:.1f}']
        print(f'| {" | ".join(cells)} |', flush=True)
    if args.figure:
        path = args.output_dir / 'plots' / 'prox_lstm.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(path, args.epsilon, args.device, args.repetitions)
        print(f'\nWritten to {path}')


if __name__ == '__main__':
    run_program(main, get_args)
