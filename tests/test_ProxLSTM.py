"""The proximal layers: gradients against finite differences, results against separate equations.

    python -m pytest tests/test_ProxLSTM.py

The oracle below shares nothing with ProxLSTM.py: its own LSTM cell, the Jacobian G from
torch.func.jacrev, a dense solve, and plain autograd through all of it.
"""

import copy
import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.utils.rnn import (PackedSequence, pack_padded_sequence, pack_sequence,
                                pad_packed_sequence)
from torch.utils._python_dispatch import TorchDispatchMode

from Classifier import LSTMClassifier
from ProxLSTM import ConjugateGradients, ProximalStep, ProxLSTM, ProxLSTMCell
from training import train_model

SIZES = [(3, 4, 2), (5, 3, 2), (4, 4, 1), (1, 3, 2), (3, 1, 2)]  # input_size, hidden_size, batch
each_solver_and_dtype = pytest.mark.parametrize(
    'solver, dtype', [('native', torch.float32), ('PyTorch', torch.float32),
                      ('PyTorch', torch.float64)], indirect=['solver'])


def oracle_step(epsilon, v, h, c, weight_ih, weight_hh, *biases):
    """One step of a batch, written from equation (3)."""
    def cell(v, h, c):
        i, f, g, o = (weight_ih @ v + weight_hh @ h + sum(biases)).chunk(4)
        s = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return s, o.sigmoid() * s.tanh()

    s, h_next = vmap(cell)(v, h, c)
    G = vmap(jacrev(lambda v, h, c: cell(v, h, c)[0]))(v, h, c)
    M = torch.eye(s.shape[1], dtype=s.dtype) + epsilon * G @ G.transpose(1, 2)
    return h_next, torch.linalg.solve(M, s)


def oracle(epsilon, input, h, c, weights):
    """A sequence [T, B, D]: every step's h, and the last c."""
    output = []
    for v in input:
        h, c = oracle_step(epsilon, v, h, c, *weights)
        output.append(h)
    return torch.stack(output), c


def stacked_oracle(layer, epsilons, input, h_0, c_0, weights):
    """All layers and directions of `layer`, with these weights, over input [T, B, D]."""
    each = iter(zip(h_0, c_0, weights))
    h_n, c_n = [], []
    for k, epsilon in enumerate(epsilons):
        if k:
            input = F.dropout(input, layer.dropout, layer.training)
        outputs = []
        for reverse in range(1 + layer.bidirectional):
            output, c = oracle(epsilon, input.flip(0) if reverse else input, *next(each))
            h_n.append(output[-1])
            c_n.append(c)
            outputs.append(output.flip(0) if reverse else output)
        input = torch.cat(outputs, 2)
    return input, torch.stack(h_n), torch.stack(c_n)


def cell_and_data(D, H, B, epsilon):
    torch.manual_seed(D + 10 * H + 100 * B)
    cell = enlarged(ProxLSTMCell(D, H, epsilon=epsilon, dtype=torch.float64))
    v, h, c = (torch.randn(B, n, dtype=torch.float64, requires_grad=True) for n in (D, H, H))
    return cell, v, h, c


def layer_and_data(D, H, B, T, epsilon, dtype=torch.float64):
    torch.manual_seed(D + 10 * H + 100 * B)
    layer = enlarged(ProxLSTM(D, H, epsilon=epsilon, dtype=dtype))
    input, h, c = (torch.randn(n, B, size, dtype=dtype, requires_grad=True)
                   for n, size in ((T, D), (1, H), (1, H)))
    return layer, input, h, c


def enlarged(module):
    """Double the weights of initialization, so that the proximal map does something."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(2)
    return module


def gradients(outputs, inputs):
    """Gradients of a fixed random combination of all entries of `outputs`."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in outputs]
    total = sum((x * weight.to(x.dtype)).sum() for x, weight in zip(outputs, weights))
    return torch.autograd.grad(total, inputs)


# ----------------------------------------------------------------------------------------- the cell

@pytest.mark.parametrize('D, H, B, epsilon', [*((*size, 2.0) for size in SIZES),
                                              (3, 4, 2, 0.1), (3, 4, 2, 7.0)])
def test_cell_gradcheck(D, H, B, epsilon):
    cell, v, h, c = cell_and_data(D, H, B, epsilon)
    names = [name for name, _ in cell.named_parameters()]

    def f(v, h, c, *weights):
        return functional_call(cell, dict(zip(names, weights)), (v, (h, c)))

    assert torch.autograd.gradcheck(f, (v, h, c, *cell.parameters()))


class StepByUnits(torch.autograd.Function):
    """`ProximalStep` as the assignment's formulas read: G, (6) and (8) one unit after the other."""

    @staticmethod
    def forward(ctx, epsilon, *inputs):
        with torch.enable_grad():
            v, h, c, *weights = [x.detach().requires_grad_() for x in inputs]
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            G = torch.stack([torch.autograd.grad(s[:, k].sum(), v, retain_graph=True)[0]
                             for k in range(s.shape[1])], 1)
        M = torch.eye(s.shape[1], dtype=s.dtype, device=s.device) + epsilon * G @ G.mT
        c_next = torch.linalg.solve(M, s.detach())
        ctx.epsilon = epsilon
        ctx.save_for_backward(M, G, c_next, *inputs)
        return h_next.detach(), c_next

    @staticmethod
    def backward(ctx, grad_h, grad_c):
        M, G, c_next, *inputs = ctx.saved_tensors
        a = torch.linalg.solve(M, grad_c)
        ac = a[:, :, None] * c_next[:, None]
        grad_G = -ctx.epsilon * (ac + ac.mT) @ G
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in inputs]
            v, h, c, *weights = inputs
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            first_order = (h_next * grad_h).sum() + (s * a).sum()
            grads = torch.autograd.grad(first_order, inputs, retain_graph=True)
            for k in range(s.shape[1]):
                row, = torch.autograd.grad(s[:, k].sum(), v, create_graph=True)
                more = torch.autograd.grad((row * grad_G[:, k]).sum(), inputs, retain_graph=True,
                                           allow_unused=True, materialize_grads=True)
                grads = [x + y for x, y in zip(grads, more)]
        return None, *grads


def test_the_step_and_its_gradients_are_those_of_the_formulas_read_literally():
    torch.manual_seed(0)
    cell = ProxLSTMCell(4, 3, epsilon=2.5).double()
    inputs = [torch.randn(2, n, dtype=torch.float64, requires_grad=True) for n in (4, 3, 3)]
    inputs += [parameter.detach().requires_grad_() for parameter in cell.parameters()]
    epsilon = torch.tensor(cell.epsilon, dtype=torch.float64)
    weights = torch.randn(2, 2, 3, dtype=torch.float64)
    results = []
    for function in (ProximalStep, StepByUnits):
        states = function.apply(epsilon, *inputs)[:2]
        loss = sum((state * weight).sum() for state, weight in zip(states, weights))
        results.append([*states, *torch.autograd.grad(loss, inputs)])
    for step, literal in zip(*results):
        torch.testing.assert_close(step, literal)


@pytest.mark.parametrize('D, H, B', SIZES)
@pytest.mark.parametrize('epsilon', [0.5, 4.0])
def test_cell_over_steps_equals_the_oracle(D, H, B, epsilon):
    cell, _, h, c = cell_and_data(D, H, B, epsilon)
    input = torch.randn(5, B, D, dtype=torch.float64, requires_grad=True)
    weights = list(cell.parameters())
    expected = oracle(epsilon, input, h, c, weights)
    state, output = (h, c), []
    for v in input:
        state = cell(v, state)
        output.append(state[0])
    actual = torch.stack(output), state[1]
    leaves = [input, h, c, *weights]
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, leaves), gradients(expected, leaves))


def test_cell_proximal_state_solves_its_minimization():
    """s − c = ε G Gᵀ c, so c minimizes ½‖c − s‖² + ε/2 ‖Gᵀc‖²; G is by finite differences."""
    cell, v, h, c = cell_and_data(5, 3, 1, epsilon=3.0)
    plain = nn.LSTMCell(5, 3, dtype=torch.float64)
    plain.load_state_dict(cell.state_dict())
    with torch.no_grad():
        delta = 1e-6 * torch.eye(5, dtype=torch.float64)
        G = torch.stack([(plain(v + d, (h, c))[1] - plain(v - d, (h, c))[1])[0] / 2e-6
                         for d in delta], dim=1)
        s, c_next = plain(v, (h, c))[1][0], cell(v, (h, c))[1][0]
    torch.testing.assert_close(s - c_next, 3.0 * G @ G.T @ c_next, rtol=1e-6, atol=1e-8)
    assert (s - c_next).norm() > 0.05 * s.norm()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_cell_without_epsilon_is_lstm_cell(dtype):
    plain = nn.LSTMCell(4, 3, dtype=dtype)
    cell = ProxLSTMCell(4, 3, epsilon=0, dtype=dtype)
    cell.load_state_dict(plain.state_dict(), strict=True)
    v = torch.randn(2, 4, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(cell(v), plain(v)))


def test_cell_takes_what_lstm_cell_takes():
    cell, v, h, c = cell_and_data(4, 3, 2, epsilon=2.0)
    batch = cell(v, (h, c))
    for i in range(2):  # unbatched; and each sample has a G of its own
        torch.testing.assert_close(cell(v[i], (h[i], c[i])), tuple(x[i] for x in batch))
    zero = torch.zeros_like(h)
    torch.testing.assert_close(cell(v), cell(v, (zero, zero)))
    with torch.no_grad():
        torch.testing.assert_close(cell(v, (h, c)), tuple(x.detach() for x in batch))
    single = cell.float()(v.float(), (h.float(), c.float()))
    assert single[0].dtype == torch.float32
    torch.testing.assert_close(single[1].double(), batch[1], rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------- the layer

@pytest.mark.parametrize('D, H, B, epsilon', [(3, 4, 2, 1.0), (4, 2, 1, 7.0)])
def test_layer_gradcheck(D, H, B, epsilon):
    layer, input, h, c = layer_and_data(D, H, B, 3, epsilon)
    names = [name for name, _ in layer.named_parameters()]

    def f(input, h, c, *weights):
        output, (h_n, c_n) = functional_call(layer, dict(zip(names, weights)), (input, (h, c)))
        return output, h_n, c_n

    assert torch.autograd.gradcheck(f, (input, h, c, *layer.parameters()))


@pytest.mark.parametrize('D, H, B, T', [  # 35 steps fill more than two chunks of the backward pass
    *((*size, 4) for size in SIZES), (6, 5, 3, 1), (6, 5, 3, 35)])
@pytest.mark.parametrize('epsilon', [0.1, 7.0])
def test_layer_equals_the_looped_cell(D, H, B, T, epsilon):
    layer, input, h, c = layer_and_data(D, H, B, T, epsilon)
    cell = ProxLSTMCell(D, H, epsilon=epsilon, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix('_l0'): x for name, x in layer.state_dict().items()})
    state, looped = (h[0], c[0]), []
    for v in input:
        state = cell(v, state)
        looped.append(state[0])
    expected = torch.stack(looped), state[0], state[1]
    output, (h_n, c_n) = layer(input, (h, c))
    actual = output, h_n[0], c_n[0]
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    actual = gradients(actual, [input, h, c, *layer.parameters()])
    expected = gradients(expected, [input, h, c, *cell.parameters()])
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('used', [0, 1, 2])
def test_layer_gradients_of_one_result_alone(used):
    """The results that the loss does not use have no gradient, of output, h_n and c_n."""
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 2.0)
    output, (h_n, c_n) = layer(input, (h, c))
    expected_output, expected_c = oracle(2.0, input, h[0], c[0], list(layer.parameters()))
    actual = (output, h_n[0], c_n[0])[used]
    expected = (expected_output, expected_output[-1], expected_c)[used]
    leaves = [input, h, c, *layer.parameters()]
    torch.testing.assert_close(gradients([actual], leaves), gradients([expected], leaves))


def test_layer_takes_what_lstm_takes():
    """batch_first, unbatched input, absent states, in every combination with nn.LSTM's shapes."""
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 2.0)
    output, (h_n, c_n) = layer(input, (h, c))
    assert output.shape == (5, 2, 4) and h_n.shape == c_n.shape == (1, 2, 4)

    first = ProxLSTM(3, 4, epsilon=2.0, batch_first=True, dtype=torch.float64)
    first.load_state_dict(layer.state_dict())
    leaf = input.detach().transpose(0, 1).contiguous().requires_grad_()
    first_output, states = first(leaf, (h, c))
    torch.testing.assert_close((first_output.transpose(0, 1), *states), (output, h_n, c_n))
    torch.testing.assert_close(gradients([first_output.transpose(0, 1)], [leaf])[0].transpose(0, 1),
                               gradients([output], [input])[0])

    alone, (alone_h, alone_c) = layer(input[:, 1], (h[:, 1], c[:, 1]))
    torch.testing.assert_close((alone, alone_h, alone_c), (output[:, 1], h_n[:, 1], c_n[:, 1]))
    zero = torch.zeros_like(h)
    torch.testing.assert_close(layer(input), layer(input, (zero, zero)))
    with torch.no_grad():
        torch.testing.assert_close(layer(input, (h, c))[0], output.detach())


@pytest.mark.parametrize('enforce_sorted', [True, False])
def test_layer_packed_equals_each_sequence_alone(enforce_sorted):
    layer, _, h, c = layer_and_data(3, 4, 3, 1, 2.0)
    lengths = [6, 4, 1] if enforce_sorted else [4, 1, 6]
    sequences = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    packed, (h_n, c_n) = layer(pack_sequence(sequences, enforce_sorted=enforce_sorted), (h, c))
    reference, _ = nn.LSTM(3, 4).double()(pack_sequence(sequences, enforce_sorted=enforce_sorted))
    for field in ('batch_sizes', 'sorted_indices', 'unsorted_indices'):
        a, b = getattr(packed, field), getattr(reference, field)
        assert a is b is None or torch.equal(a, b)
    output, _ = pad_packed_sequence(packed)
    alone = [layer(x, (h[:, i], c[:, i])) for i, x in enumerate(sequences)]
    for i, (n, (single, (single_h, single_c))) in enumerate(zip(lengths, alone)):
        torch.testing.assert_close((output[:n, i], h_n[:, i], c_n[:, i]),
                                   (single, single_h, single_c))
    leaves = [*sequences, h, c, *layer.parameters()]
    torch.testing.assert_close(gradients([h_n, c_n], leaves), gradients(
        [torch.stack([s[1][k] for s in alone], 1) for k in (0, 1)], leaves))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_layer_without_epsilon_is_lstm_bit_for_bit(dtype):
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 3.0, dtype)
    lstm = nn.LSTM(3, 4, dtype=dtype)
    lstm.load_state_dict(layer.state_dict(), strict=True)
    for epsilon in (0, torch.tensor(0.0)):
        output, states = layer(input, (h, c), epsilon=epsilon)
        expected, expected_states = lstm(input, (h, c))
        assert torch.equal(output, expected)
        assert all(torch.equal(a, b) for a, b in zip(states, expected_states))
    gradient, expected = gradients([output], [input]), gradients([expected], [input])
    assert torch.equal(gradient[0], expected[0])


def test_epsilon_of_the_call_takes_the_place_of_the_layers_own():
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 3.0)
    own = layer(input)[0]
    assert torch.equal(layer(input, epsilon=3.0)[0], own)
    assert torch.equal(layer(input, epsilon=torch.tensor(3.0))[0], own)
    assert not torch.allclose(layer(input, epsilon=1.0)[0], own)


def test_layer_in_float32_agrees_with_float64(solver):
    """Gradients to 1e-3 of their norm, with weights for which the proximal map matters."""
    torch.manual_seed(0)
    layer = ProxLSTM(20, 30, epsilon=1.0)
    with torch.no_grad():
        layer.weight_ih_l0.mul_(1.5)
    input = torch.randn(14, 9, 20, requires_grad=True)
    single = gradients(layer(input)[:1], [input, *layer.parameters()])
    layer.double()
    wide = input.detach().double().requires_grad_()
    double = gradients(layer(wide)[:1], [wide, *layer.parameters()])
    for a, b in zip(single, double):
        assert (a - b).norm() < (1e-5 if solver == 'native' else 1e-3) * b.norm()


@each_solver_and_dtype
def test_a_sample_with_a_tiny_or_a_nan_gradient_leaves_the_others_alone(solver, dtype):
    layer, input, h, c = layer_and_data(3, 4, 3, 4, 2.0, dtype)
    weight = torch.randn(3, 4, dtype=dtype)
    expected, = torch.autograd.grad((layer(input)[0][-1] * weight).sum(), input)
    size = torch.tensor([[1.0], [1e-9], [0.0]], dtype=dtype)
    actual, = torch.autograd.grad((layer(input)[0][-1] * weight * size).sum(), input)
    tolerance = {'rtol': 1e-2, 'atol': 1e-3} if dtype == torch.float32 else {}
    torch.testing.assert_close(actual[:, 0], expected[:, 0], **tolerance)
    torch.testing.assert_close(actual[:, 1] * 1e9, expected[:, 1], **tolerance)
    assert not actual[:, 2].any()

    damaged = input.detach().clone()
    damaged[1, 1] = math.nan
    output, (_, c_n) = layer(damaged)
    torch.testing.assert_close(output[:, ::2], layer(input)[0][:, ::2], **tolerance)
    assert output[1:, 1].isnan().all() and c_n[0, 1].isnan().all()


@pytest.mark.parametrize('size', [1e-20, 1e-22, 1e-25, 1e-30, 1e-37, 0.0])
def test_a_gradient_whose_square_underflows_is_as_accurate_as_the_others(solver, size):
    torch.manual_seed(0)
    layer = ProxLSTM(64, 50, epsilon=30.0)
    with torch.no_grad():
        layer.weight_ih_l0.mul_(2)
    input, weight = torch.randn(14, 3, 64, requires_grad=True), torch.randn(3, 50)

    def gradient(factor):
        total = (layer(input)[0][-1] * weight * torch.tensor([[1.0], [factor], [1.0]])).sum()
        return torch.autograd.grad(total, input)[0]

    actual, expected = gradient(size), gradient(1.0)
    assert (actual[:, ::2] - expected[:, ::2]).norm() < 1e-3 * expected[:, ::2].norm()
    if size > 1e-36:  # otherwise the results themselves underflow
        own = actual[:, 1].double() / size
        assert (own - expected[:, 1]).norm() < 1e-3 * expected[:, 1].norm()


@pytest.mark.parametrize('value', [math.nan, math.inf, 1e30])
@pytest.mark.filterwarnings('ignore:ProxLSTM')
def test_a_diverged_layer_gives_nan_rather_than_an_error_or_a_number(solver, value):
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 2.0, torch.float32)
    with torch.no_grad():
        layer.weight_ih_l0[[2, 9], 1] = value
    output, _ = layer(input)
    assert output[1:].isnan().any()
    assert all(x.isnan().any() for x in gradients([output], [input, layer.weight_ih_l0]))


def test_every_system_is_solved_alike_whatever_the_size_of_its_right_hand_side():
    """An easy system of size 1 must not stop the iterations before a hard one of 1e-6 is solved."""
    torch.manual_seed(0)
    weight = torch.randn(4 * 20, 30, dtype=torch.float64)
    b = torch.randn(2, 20, dtype=torch.float64)
    alpha = torch.rand(2, 3, 20, dtype=torch.float64) * torch.tensor([0.001, 1.0])[:, None, None]
    b[1] *= 1e-6
    out = [torch.empty(2, n, dtype=torch.float64) for n in (20, 30, 60)]
    ConjugateGradients(weight, torch.tensor(1.0), 2).solve(alpha, b, out)
    G = (alpha[..., None] * weight[:60].view(3, 20, 30)).sum(1)
    exact = torch.linalg.solve(torch.eye(20, dtype=torch.float64) + G @ G.mT, b)
    assert ((out[0] - exact).norm(dim=1) < 1e-10 * exact.norm(dim=1)).all()


def relative_error(layer, input, dtype):
    """The largest error of a gradient of `layer` in `dtype`, against the float64 cell."""
    layer = copy.deepcopy(layer).to(dtype)
    cell = ProxLSTMCell(layer.input_size, layer.hidden_size, epsilon=layer.epsilon).double()
    for own, parameter in zip(cell.parameters(), layer.parameters()):
        own.data.copy_(parameter.data)
    leaf = input.detach().to(dtype).requires_grad_()
    actual = gradients(layer(leaf)[:1], [leaf, *layer.parameters()])
    leaf, state, output = leaf.detach().double().requires_grad_(), None, []
    for v in leaf:
        state = cell(v, state)
        output.append(state[0])
    expected = gradients([torch.stack(output)], [leaf, *cell.parameters()])
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(actual, expected))


@pytest.mark.parametrize('epsilon', [0.1, 5.0, 300.0, 1e6])
@each_solver_and_dtype
def test_the_promised_accuracy_holds_on_a_trained_model_or_a_warning_says_not(
        trained, solver, dtype, epsilon):
    lstm, input = trained
    layer = ProxLSTM(64, 50, epsilon=epsilon)
    layer.load_state_dict(lstm.state_dict())
    promised = 1e-9 if dtype == torch.float64 else 1e-4 if solver == 'native' else 3e-3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        error = relative_error(layer, input, dtype)
    if dtype == torch.float32 and epsilon == 1e6:
        warning, = caught
        assert warning.category is RuntimeWarning and 'above 2e+04' in str(warning.message)
    else:
        assert error < promised and not caught


@pytest.fixture(scope='module')
def trained(data):
    """The recurrence of a classifier after ten epochs, and what it reads, [T, B, 64]."""
    torch.manual_seed(0)
    model = LSTMClassifier()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(10):
        train_model(model, data[0], optimizer)
    model(data[0][5].inputs, data[0][5].lengths)
    return model.lstm, model.v.transpose(0, 1).detach()


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('seed', range(12))
def test_no_error_of_large_weights_or_epsilon_passes_without_a_warning(solver, seed):
    generator = torch.Generator().manual_seed(seed)
    scale, epsilon = 10 ** (torch.rand(2, generator=generator) * torch.tensor([1.0, 6.0]))
    torch.manual_seed(seed)
    layer = ProxLSTM(20, 30, epsilon=epsilon.item())
    with torch.no_grad():
        layer.weight_ih_l0 *= scale
    try:
        assert relative_error(layer, torch.randn(5, 3, 20), torch.float32) < 1e-2
    except RuntimeWarning:
        assert scale ** 2 * epsilon > 1e3


# ------------------------------------------------------------------------- all that nn.LSTM is

CONFIGURATIONS = [{'num_layers': 2}, {'bidirectional': True}, {'bias': False},
                  {'num_layers': 3, 'bidirectional': True, 'bias': False, 'batch_first': True}]


def configured(epsilon, options, dtype=torch.float64):
    """A layer, input and states as `nn.LSTM` takes them, and a weight list for each direction."""
    torch.manual_seed(1)
    layer = enlarged(ProxLSTM(3, 4, epsilon=epsilon, dtype=dtype, **options))
    input = torch.randn(5, 2, 3, dtype=dtype, requires_grad=True)
    if layer.batch_first:
        input = input.detach().transpose(0, 1).contiguous().requires_grad_()
    shape = layer.num_layers * (1 + layer.bidirectional), 2, 4
    h, c = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(2))
    return layer, input, h, c


@pytest.mark.parametrize('options', CONFIGURATIONS)
def test_every_configuration_equals_the_stacked_oracle(options):
    layer, input, h, c = configured(2.0, options)
    epsilons = [0.5 + k for k in range(layer.num_layers)]
    output, states = layer(input, (h, c), epsilon=epsilons)
    time_first = input.transpose(0, 1) if layer.batch_first else input
    expected = stacked_oracle(layer, epsilons, time_first, h, c, layer.all_weights)
    actual = output.transpose(0, 1) if layer.batch_first else output, *states
    torch.testing.assert_close(actual, expected)
    leaves = [input, h, c, *layer.parameters()]
    torch.testing.assert_close(gradients(actual, leaves), gradients(expected, leaves))


@pytest.mark.parametrize('options', CONFIGURATIONS)
def test_every_configuration_without_epsilon_is_lstm_bit_for_bit(options):
    layer, input, h, c = configured(3.0, options, torch.float32)
    lstm = nn.LSTM(3, 4, **options)
    lstm.load_state_dict(layer.state_dict(), strict=True)
    for epsilon in (0, torch.tensor(0.0), [0.0] * layer.num_layers):
        output, states = layer(input, (h, c), epsilon=epsilon)
        expected, expected_states = lstm(input, (h, c))
        assert torch.equal(output, expected)
        assert all(torch.equal(a, b) for a, b in zip(states, expected_states))


def test_dropout_between_layers_is_lstms():
    layer, input, h, c = configured(2.0, {'num_layers': 3, 'dropout': 0.5})
    torch.manual_seed(2)
    output, _ = layer(input, (h, c))
    torch.manual_seed(2)
    expected, *_ = stacked_oracle(layer, 3 * [2.0], input, h, c, layer.all_weights)
    torch.testing.assert_close(output, expected)
    evaluated, _ = layer.eval()(input, (h, c))
    expected, *_ = stacked_oracle(layer, 3 * [2.0], input, h, c, layer.all_weights)
    torch.testing.assert_close(evaluated, expected)
    assert not torch.allclose(output, evaluated)


@pytest.mark.parametrize('enforce_sorted', [True, False])
def test_stacked_bidirectional_packed_equals_each_sequence_alone(enforce_sorted):
    torch.manual_seed(0)
    layer = ProxLSTM(3, 4, 2, bidirectional=True, epsilon=2.0).double()
    lengths = [6, 4, 1] if enforce_sorted else [4, 1, 6]
    sequences = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in lengths]
    states = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    packed, (h_n, c_n) = layer(pack_sequence(sequences, enforce_sorted=enforce_sorted),
                               tuple(states))
    output, _ = pad_packed_sequence(packed)
    alone = [layer(x, tuple(states[:, :, i])) for i, x in enumerate(sequences)]
    for i, (n, (single, (single_h, single_c))) in enumerate(zip(lengths, alone)):
        torch.testing.assert_close((output[:n, i], h_n[:, i], c_n[:, i]),
                                   (single, single_h, single_c))
    leaves = [*sequences, *layer.parameters()]
    expected = torch.cat([single for single, _ in alone])
    actual = torch.cat([output[:n, i] for i, n in enumerate(lengths)])
    torch.testing.assert_close(gradients([actual], leaves), gradients([expected], leaves))


@pytest.mark.parametrize('make, shape', [
    (lambda: ProxLSTMCell(3, 4), ()), (lambda: ProxLSTMCell(3, 4, bias=False), ()),
    (lambda: ProxLSTM(3, 4, 2, bidirectional=True), ()),
    (lambda: ProxLSTM(3, 4, 2, bidirectional=True), (2,)), (lambda: ProxLSTM(3, 4, bias=False), ())])
def test_gradcheck_of_epsilon(make, shape):
    torch.manual_seed(0)
    module = enlarged(make().double())
    input = torch.randn(*((4, 2, 3) if isinstance(module, nn.LSTM) else (2, 3))).double()
    for value in (0.0, 2.0):  # at 0 too, where a search may begin
        epsilon = torch.full(shape, value, dtype=torch.float64, requires_grad=True)

        def f(epsilon):
            return sum(x.square().sum() for x in flattened(module(input, epsilon=epsilon)))

        if value:
            assert torch.autograd.gradcheck(f, epsilon)
        else:  # one-sided, as epsilon must not be negative
            slope = (f(epsilon + 1e-6) - f(epsilon)) / 1e-6
            gradient, = torch.autograd.grad(f(epsilon), epsilon)
            torch.testing.assert_close(gradient.sum(), slope, rtol=1e-4, atol=1e-7)


def test_packed_output_has_the_order_of_the_input_though_lengths_tie():
    padded, order = torch.randn(5, 3, 3), torch.tensor([2, 0, 1])
    sorted_ = pack_padded_sequence(padded[:, order], [5, 5, 5])
    packed = PackedSequence(sorted_.data, sorted_.batch_sizes, order, torch.argsort(order))
    layer = ProxLSTM(3, 4)
    output, (h_n, _) = layer(packed)
    assert torch.equal(output.sorted_indices, order)
    expected, (expected_h, _) = layer(padded)
    torch.testing.assert_close(pad_packed_sequence(output)[0], expected)
    torch.testing.assert_close(h_n, expected_h)


def test_two_threads_may_run_backward_through_one_graph(solver):
    torch.manual_seed(0)
    layer, input = ProxLSTM(64, 50), torch.randn(20, 27, 64)
    output, _ = layer(input)
    weights = [torch.randn_like(output) for _ in range(2)]

    def gradient(weight):
        return torch.autograd.grad((output * weight).sum(), layer.weight_ih_l0, retain_graph=True)

    expected = list(map(gradient, weights))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for actual, exact in zip(pool.map(gradient, weights), expected):
                assert torch.equal(actual[0], exact[0])


@each_solver_and_dtype
def test_an_empty_batch_is_computed_as_lstm_does(solver, dtype):
    output, (h_n, c_n) = ProxLSTM(3, 4, dtype=dtype)(torch.zeros(5, 0, 3, dtype=dtype))
    assert output.shape == (5, 0, 4) and h_n.shape == c_n.shape == (1, 0, 4)


@pytest.mark.parametrize('kind', [ProxLSTMCell, ProxLSTM])
def test_hooks_fire_once(kind):
    calls, module = [], kind(3, 4)
    module.register_forward_hook(lambda *_: calls.append(1))
    module(torch.randn(3) if kind is ProxLSTMCell else torch.randn(5, 3))
    assert len(calls) == 1


@pytest.mark.parametrize('kind', [ProxLSTMCell, ProxLSTM])
def test_a_learnable_epsilon_goes_to_forward_and_is_no_parameter(kind):
    with pytest.raises(ValueError, match='pass it to forward'):
        kind(3, 4, epsilon=nn.Parameter(torch.tensor(2.0)))
    module, epsilon = kind(3, 4), torch.tensor(2.0, requires_grad=True)
    sum(x.sum() for x in flattened(module(torch.randn(2, 3), epsilon=epsilon))).backward()
    assert epsilon.grad.abs() > 0


def flattened(results):
    """The results of a cell, or of a layer, as a flat list."""
    first, second = results
    return [first, *second] if isinstance(second, tuple) else [first, second]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('epsilon', [0, 2.0])
def test_half_precision_is_computed_in_float32_and_returned_as_lstm_returns_it(dtype, epsilon):
    layer, input, h, c = layer_and_data(3, 4, 2, 5, epsilon, dtype)
    results = flattened(layer(input, (h, c)))
    reference = flattened(nn.LSTM(3, 4, dtype=dtype)(input, (h, c)))
    assert [x.dtype for x in results] == [x.dtype for x in reference]
    wide = copy.deepcopy(layer).float()
    leaf = input.detach().float().requires_grad_()
    expected = flattened(wide(leaf, (h.float(), c.float())))
    if epsilon:
        assert all(torch.equal(a, b.to(dtype)) for a, b in zip(results, expected))
    for a, b in zip(gradients(results[:1], [input, *layer.parameters()]),
                    gradients(expected[:1], [leaf, *wide.parameters()])):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)


def test_under_autocast_it_computes_in_float32_and_returns_what_lstm_returns():
    torch.manual_seed(0)
    lstm, cell = nn.LSTM(3, 4), nn.LSTMCell(3, 4)
    for module in (ProxLSTM(3, 4, epsilon=2.0), ProxLSTMCell(3, 4, epsilon=2.0)):
        input = torch.randn(5, 2, 3) if isinstance(module, nn.LSTM) else torch.randn(2, 3)
        leaves = [input.requires_grad_(), *module.parameters()]
        expected = flattened(module(input))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            actual = flattened(module(input))
            reference = flattened((lstm if isinstance(module, nn.LSTM) else cell)(input))
            assert [x.dtype for x in actual] == [x.dtype for x in reference]
            assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(actual, expected))
            gradient = gradients(actual, leaves)  # the backward pass is within autocast, too
        for a, b in zip(gradient, gradients(expected, leaves)):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)


def test_states_are_tensors_of_their_own():
    layer, input, _, _ = layer_and_data(3, 4, 8, 200, 2.0)
    output, (h_n, c_n) = layer(input)
    before = output.clone()
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in (h_n, c_n))
    loss = output.square().sum()
    with torch.no_grad():
        h_n.zero_()
        c_n.zero_()
    assert torch.equal(output, before)
    loss.backward()
    output, (h_n, c_n) = layer(input)
    output.mul_(2).sum().backward()  # nor does it change what the backward pass needs


def test_every_gradient_is_a_tensor_of_its_own():
    layer, input, h, c = layer_and_data(3, 4, 2, 5, 2.0)
    grads = gradients([layer(input, (h, c))[0]], [input, h, c, *layer.parameters()])
    assert len({x.data_ptr() for x in grads}) == len(grads)
    torch.testing.assert_close(grads[-1], grads[-2])


def test_what_is_frozen_costs_no_matrix_product():
    layer, input = ProxLSTM(20, 30), torch.randn(6, 4, 20, requires_grad=True)

    def products():
        output, _ = layer(input)
        with CountProducts() as mode:
            output.sum().backward()
        return mode.count

    everything = products()
    layer.weight_hh_l0.requires_grad_(False)
    without_hh = products()
    assert everything - without_hh == 1
    layer.weight_ih_l0.requires_grad_(False)
    without_both = products()
    assert without_hh - without_both == 3  # one of the first order, two of the second
    input.requires_grad_(False)
    assert without_both - products() == 1


class CountProducts(TorchDispatchMode):
    """Count the matrix products that run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.split('.')[0] in ('mm', 'addmm', 'addmm_')
        return func(*args, **(kwargs or {}))


# --------------------------------------------------------------------------------------------- both

def oracle_outputs(module, input, *weights):
    """What `module`, a cell or a layer, computes from zero states, by the oracle."""
    zero = input.new_zeros(2, module.hidden_size)
    if isinstance(module, nn.LSTM):
        output, c = oracle(module.epsilon, input, zero, zero, weights)
        return output, c[None]
    return oracle_step(module.epsilon, input, zero, zero, *weights)


def small(kind):
    torch.manual_seed(3)
    module = enlarged(kind(3, 4, epsilon=2.0, dtype=torch.float64))
    shape = (3, 2, 3) if kind is ProxLSTM else (2, 3)
    return module, torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize('kind', [ProxLSTMCell, ProxLSTM])
def test_gradgradcheck(kind):
    module, input = small(kind)
    names = [name for name, _ in module.named_parameters()]
    epsilon = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)

    def f(epsilon, input, *weights):
        results = functional_call(module, dict(zip(names, weights)), (input, None, epsilon))
        return results if kind is ProxLSTMCell else (results[0], results[1][1])

    inputs = epsilon, input, *module.parameters()
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


@pytest.mark.parametrize('kind', [ProxLSTMCell, ProxLSTM])
def test_hessian_and_gradient_penalty_are_the_oracles(kind):
    module, input = small(kind)
    weights = list(module.parameters())

    def penalty(f):
        s = f(input).square().sum()
        g, = torch.autograd.grad(s, input, create_graph=True)
        return torch.autograd.grad(s + 10 * (g.norm() - 1) ** 2, [input, *weights])

    def own(x):
        return module(x)[0]

    def expected(x):
        return oracle_outputs(module, x, *weights)[0]

    hessian = torch.autograd.functional.hessian
    torch.testing.assert_close(hessian(lambda x: own(x).sum(), input),
                               hessian(lambda x: expected(x).sum(), input))
    torch.testing.assert_close(penalty(own), penalty(expected))


@pytest.mark.parametrize('kind', [ProxLSTMCell, ProxLSTM])
def test_torch_func_inference_mode_and_compile(kind):
    module, input = small(kind)

    def loss(x):
        return module(x)[0].square().sum()

    expected, = torch.autograd.grad(loss(input), input)
    torch.testing.assert_close(torch.func.grad(loss)(input), expected)
    _, pullback = torch.func.vjp(loss, input)
    torch.testing.assert_close(pullback(torch.ones_like(loss(input)))[0], expected)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacrev(loss))(input),
                               torch.autograd.functional.hessian(loss, input))
    by_weights = torch.func.grad(lambda weights: functional_call(
        module, weights, (input,))[0].square().sum())(dict(module.named_parameters()))
    torch.testing.assert_close(list(by_weights.values()), list(torch.autograd.grad(
        loss(input), list(module.parameters()))))
    with torch.inference_mode():
        torch.testing.assert_close(module(input.detach() + 0)[0], module(input)[0])
    if kind is ProxLSTMCell:
        samples = torch.func.vmap(lambda x: module(x)[1])(input[:, None])
        torch.testing.assert_close(samples[:, 0], module(input)[1])
    compiled = torch.compile(module, backend='aot_eager', fullgraph=kind is ProxLSTMCell)
    actual, = torch.autograd.grad(compiled(input)[0].square().sum(), input)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize('epsilon', [-1.0, math.nan, math.inf, torch.tensor(-0.5), torch.ones(2),
                                     [1.0, -1.0], 1e39, 'much', '2'])
@pytest.mark.parametrize('make', [
    lambda epsilon: ProxLSTMCell(3, 4, epsilon=epsilon),
    lambda epsilon: ProxLSTM(3, 4, epsilon=epsilon),
    lambda epsilon: ProxLSTM(3, 4)(torch.zeros(2, 1, 3), epsilon=epsilon)])
def test_bad_epsilon_is_refused(make, epsilon):
    with pytest.raises(ValueError, match='epsilon is .*, expected a finite number .* not negative'):
        make(epsilon)


def test_bad_epsilon_set_later_is_refused_too():
    layer = ProxLSTM(3, 4)
    layer.epsilon = -5.0
    with pytest.raises(ValueError, match='epsilon is -5.0'):
        layer(torch.zeros(2, 1, 3))


def test_proj_size_is_refused():
    with pytest.raises(ValueError, match='proj_size=2 is not supported'):
        ProxLSTM(3, 4, proj_size=2)


@pytest.mark.parametrize('input', [torch.zeros(2, 1, 5), torch.zeros(2, 1, 3, 1),
                                   torch.zeros(2, 1, 3).double(), torch.zeros(0, 1, 3)])
def test_layer_refuses_input_that_lstm_refuses(input):
    for epsilon in (0, 1.0):
        with pytest.raises((ValueError, RuntimeError)):
            ProxLSTM(3, 4, epsilon=epsilon)(input)


@pytest.mark.parametrize('epsilon', [0, 1.0])
@pytest.mark.parametrize('input, words', [(torch.ones(2, 3).double(), 'dtype'),
                                          (torch.ones(2, 3, dtype=torch.int64), 'dtype'),
                                          (torch.ones(2, 5, 3), 'to be 1D or 2D')])
def test_cell_refuses_input_that_lstm_cell_refuses(epsilon, input, words):
    with pytest.raises((RuntimeError, ValueError), match=words):
        ProxLSTMCell(3, 4, epsilon=epsilon)(input)


def test_layer_refuses_packed_input_of_another_size():
    with pytest.raises(RuntimeError, match='input_size'):
        ProxLSTM(3, 4)(pack_sequence([torch.zeros(2, 5)]))


def test_layer_refuses_states_of_another_type_or_shape():
    state = torch.zeros(1, 2, 4)
    for states in ((state.double(), state.double()), (state, state.long()),
                   (state[:, :1], state), (state, torch.zeros(2, 2, 4))):
        for epsilon in (0, 1.0):
            with pytest.raises((ValueError, RuntimeError)):
                ProxLSTM(3, 4, epsilon=epsilon)(torch.zeros(5, 2, 3), states)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_cuda_with_autocast_and_an_epsilon_on_the_cpu():
    layer, input = ProxLSTM(5, 4), torch.randn(6, 3, 5)
    results = []
    for device in ('cpu', 'cuda'):
        epsilon = torch.tensor(2.0, requires_grad=True)
        layer.to(device)
        with torch.autocast(device, dtype=torch.bfloat16):
            output = layer(input.to(device), epsilon=epsilon)[0]
        output.float().square().sum().backward()
        results.append([output.cpu(), epsilon.grad])
    torch.testing.assert_close(*results, rtol=0.02, atol=0.02)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('epsilon', [0, 2.0])
def test_cuda_agrees_with_the_cpu(epsilon):
    for module, shape in ((ProxLSTM, (6, 3, 5)), (ProxLSTMCell, (3, 5))):
        module, input, results = module(5, 4, epsilon=epsilon), torch.randn(shape).double(), []
        for device in ('cpu', 'cuda'):
            module.to(device, torch.float64)
            leaf = input.to(device).detach().requires_grad_()
            output = module(leaf)[0]
            leaves = [leaf, *module.parameters()]
            results.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
        for a, b in zip(*results):
            torch.testing.assert_close(b.cpu(), a)
