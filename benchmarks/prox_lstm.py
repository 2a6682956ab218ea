"""Speed of the proximal layers: one training step as a multiple of nn.LSTM's, measured side by side.

    python benchmarks/prox_lstm.py                                  # the README's table, and plots/prox_lstm.png
    python benchmarks/prox_lstm.py --sizes 64,50,14 128,128,50 --epsilon 2
    python benchmarks/prox_lstm.py --device cuda --no-figure

A training step is a forward pass and the gradients of a random combination of all outputs with respect to the input and
the parameters, in float32. Everything runs in this process on one thread, on the same weights and data, in turn: every
repetition times each layer once, and its ratio is that repetition's. The weights are nn.LSTM's at initialisation, scaled
so that the largest λ_max(G Gᵀ) of the sequence is 1, as in trained models. The error is the largest relative error
‖g − g*‖ / ‖g*‖ of a gradient, g* being the black-box ProxLSTMCell's in float64. "kept" is what the layer holds between
forward and backward, in floats for each of the T·B·(H + D) that a sequence has.
"""

import argparse
import math
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ProxLSTM import ProxLSTM, ProxLSTMCell  # noqa: E402
from training import device_name, positive, positive_int, save_figure  # noqa: E402

SIZES = [(64, 50, 14), (64, 512, 14), (512, 512, 14), (64, 50, 200)]
BATCH = 27


def looped(cell, input):
    """Every step's h [T, B, H] of an LSTM cell run over input [T, B, D]."""
    state, output = None, []
    for v in input:
        state = cell(v, state)
        output.append(state[0])
    return torch.stack(output)


class UnitByUnit(torch.autograd.Function):
    """`ProxLSTM.ProximalStep` as the assignment's formulas read: G one row after the other, (6) and (8) likewise."""

    @staticmethod
    def forward(ctx, epsilon, *inputs):
        with torch.enable_grad():
            v, h, c, *weights = [x.detach().requires_grad_() for x in inputs]
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            G = torch.stack([torch.autograd.grad(s[:, k].sum(), v, retain_graph=True)[0] for k in range(s.shape[1])], 1)
        M = torch.eye(s.shape[1], dtype=s.dtype, device=s.device) + epsilon * G @ G.mT
        c_next = torch.linalg.solve(M, s.detach())
        ctx.epsilon = epsilon
        ctx.save_for_backward(M, G, c_next, *inputs)
        return h_next.detach(), c_next

    @staticmethod
    def backward(ctx, grad_h, grad_c):
        M, G, c_next, *inputs = ctx.saved_tensors
        a = torch.linalg.solve(M, grad_c)
        grad_G = -ctx.epsilon * (a[:, :, None] * c_next[:, None] + c_next[:, :, None] * a[:, None]) @ G
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in inputs]
            v, h, c, *weights = inputs
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            grads = torch.autograd.grad((h_next * grad_h).sum() + (s * a).sum(), inputs, retain_graph=True)
            for k in range(s.shape[1]):
                row, = torch.autograd.grad(s[:, k].sum(), v, create_graph=True)
                more = torch.autograd.grad((row * grad_G[:, k]).sum(), inputs, retain_graph=True,
                                           allow_unused=True, materialize_grads=True)
                grads = [x + y for x, y in zip(grads, more)]
        return None, *grads


class LoopOverUnits(nn.LSTMCell):
    """The cell of `UnitByUnit`."""

    epsilon = 1.0

    def forward(self, input, hx=None):
        h, c = hx or 2 * (input.new_zeros(len(input), self.hidden_size),)
        return UnitByUnit.apply(self.epsilon, input, h, c, *self.parameters())


def largest_eigenvalue(lstm, input, factor):
    """max over samples and steps of λ_max(G Gᵀ) with all weights multiplied by `factor`, by power iteration."""
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
    for _ in range(40):
        y = (alpha * ((alpha * x[:, None]).flatten(1) @ W @ W.T).view_as(alpha)).sum(1)
        eigenvalue, x = y.norm(dim=1), y / y.norm(dim=1, keepdim=True)
    return eigenvalue.max().item()


def scaled_lstm(D, H, T, device):
    """An nn.LSTM whose largest λ_max(G Gᵀ) on the input that comes with it [T, B, D] is 1."""
    torch.manual_seed(0)
    lstm, input = nn.LSTM(D, H).to(device), torch.randn(T, BATCH, D, device=device)
    low, high = 0.05, 50.0
    for _ in range(20):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if largest_eigenvalue(lstm, input, middle) < 1 else (low, middle)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(middle)
    return lstm, input


def training_step(module, input, weight):
    """Gradients with respect to the input and all parameters."""
    leaf = input.detach().requires_grad_()
    output = looped(module, leaf) if isinstance(module, nn.LSTMCell) else module(leaf)[0]
    return torch.autograd.grad((output * weight).sum(), [leaf, *module.parameters()])


def seconds(module, input, weight):
    synchronise = torch.cuda.synchronize if input.is_cuda else lambda: None
    synchronise()
    start = time.perf_counter()
    training_step(module, input, weight)
    synchronise()
    return time.perf_counter() - start


def kept_floats(module, input):
    """What autograd holds after a forward pass, in floats, parameters and input not counted."""
    own = {x.untyped_storage().data_ptr() for x in (input, *module.parameters())}
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = module(input)
    del output
    return sum(size for pointer, size in storages.items() if pointer not in own)


def measure(D, H, T, epsilon, device, repetitions, cells=True):
    """Rows (layer, ratios to nn.LSTM, gradient error, kept) for one size."""
    lstm, input = scaled_lstm(D, H, T, device)
    weight = torch.randn(T, BATCH, H, device=device)
    cell_state = {name.removesuffix('_l0'): x for name, x in lstm.state_dict().items()}
    layer = ProxLSTM(D, H, epsilon=epsilon).to(device)
    layer.load_state_dict(lstm.state_dict())
    modules = {'ProxLSTM': (layer, repetitions)}
    if cells:
        cell, loop = ProxLSTMCell(D, H, epsilon=epsilon).to(device), LoopOverUnits(D, H).to(device)
        loop.epsilon = epsilon
        modules['ProxLSTMCell'] = cell, repetitions if H * T < 1000 else 2
        if H * T < 1000:
            modules['loop over units'] = loop, 2
        for module in (cell, loop):
            module.load_state_dict(cell_state)

    for module in (lstm, layer):  # warm up
        training_step(module, input, weight)
    ratios = {name: [] for name in modules}
    for repetition in tqdm(range(repetitions), desc=f'D={D} H={H} T={T} ε={epsilon:g}', leave=False):
        own = seconds(lstm, input, weight)
        for name, (module, count) in modules.items():
            if repetition < count:
                ratios[name].append(seconds(module, input, weight) / own)

    errors = {}
    if cells:
        exact = training_step(cell.double(), input.double(), weight.double())
        cell.float()
        for name, (module, _) in modules.items():
            errors[name] = max(((a - b).norm() / b.norm()).item()
                               for a, b in zip(training_step(module, input, weight), exact))
    kept = kept_floats(layer, input.clone().requires_grad_()) / (T * BATCH * (H + D))
    return [(name, ratios[name], errors.get(name), kept if name == 'ProxLSTM' else None) for name in modules]


def draw(path, epsilon, device, repetitions):
    """Ratio against H and against epsilon."""
    hidden, epsilons = (16, 32, 50, 100, 200, 512), (0.1, 0.3, 1, 3, 10, 30, 100)
    panels = [('H', hidden, f'D = 64, T = 14, ε = {epsilon:g}',
               [measure(64, H, 14, epsilon, device, repetitions, cells=False) for H in hidden]),
              ('ε', epsilons, 'D = 64, H = 50, T = 14',
               [measure(64, 50, 14, e, device, repetitions, cells=False) for e in epsilons])]
    figure = Figure(figsize=(10, 4), layout='constrained')
    for ax, (name, values, title, rows) in zip(figure.subplots(1, 2), panels):
        ratios = [row[0][1] for row in rows]
        medians = [statistics.median(r) for r in ratios]
        ax.errorbar(values, medians, [[m - min(r) for m, r in zip(medians, ratios)],
                                      [max(r) - m for m, r in zip(medians, ratios)]], fmt='ko-', capsize=3)
        ax.set(xscale='log', xlabel=name, ylabel='training step, multiple of nn.LSTM\'s', title=title, ylim=(0, None))
        ax.set_xticks(values, [f'{v:g}' for v in values], minor=False)
        ax.minorticks_off()
        ax.grid(alpha=0.3)
    figure.suptitle('ProxLSTM: median, smallest and largest ratio')
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(path, figure)


def size(text):
    D, H, T = (int(part) for part in text.split(','))
    if min(D, H, T) < 1:
        raise ValueError
    return D, H, T


def processor():
    try:
        return next(line.split(':')[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main():
    parser = argparse.ArgumentParser(description='ProxLSTM against nn.LSTM.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--sizes', type=size, nargs='+', default=SIZES, metavar='D,H,T')
    parser.add_argument('--epsilon', type=positive, default=1.0)
    parser.add_argument('--repetitions', type=positive_int, default=15)
    parser.add_argument('--device', type=device_name, default='cpu')
    parser.add_argument('--figure', action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument('--output-dir', type=Path, default=ROOT / 'plots')
    args = parser.parse_args()
    torch.set_num_threads(1)

    machine = torch.cuda.get_device_name(args.device) if args.device.startswith('cuda') else processor()
    print(f'{machine}, {torch.get_num_threads()} thread, torch {torch.__version__}, Python {platform.python_version()}; '
          f'B = {BATCH}, ε = {args.epsilon:g}, {args.repetitions} repetitions\n')
    print('| D, H, T | layer | median | min – max | gradient error | kept |\n|---|---|---|---|---|---|')
    for D, H, T in args.sizes:
        for name, ratios, error, kept in measure(D, H, T, args.epsilon, args.device, args.repetitions):
            print(f'| {D}, {H}, {T} | {name} | {statistics.median(ratios):.1f} | {min(ratios):.1f} – {max(ratios):.1f} | '
                  f'{error:.0e} | {f"{kept:.1f}" if kept else ""} |', flush=True)
    if args.figure:
        draw(args.output_dir / 'prox_lstm.png', args.epsilon, args.device, args.repetitions)
        print(f'\nWritten to {args.output_dir / "prox_lstm.png"}')


if __name__ == '__main__':
    main()
