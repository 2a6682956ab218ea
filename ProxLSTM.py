"""LSTM layers with a proximal map on the cell state, so that perturbing the input moves it little.

M. Li, Y. Ma and X. Zhang, "Proximal mapping for deep regularization", NeurIPS 2020,
arXiv:2006.07822. Equations are numbered as in the assignment "Adversarial Training on Sequence
Classification" (CS 512, UIC, 2020).

At each step an ordinary LSTM cell computes the state s and the output h from the input v and the
previous h and c. The proximal layer keeps h and replaces s by (2), (3)

    c = argmin_c ½‖c − s‖² + ε/2 ‖Gᵀc‖² = (I + ε G Gᵀ)⁻¹ s,      G = ∂s/∂v  (H×D, one per sample),

where ε = δ²/λ: δ bounds the perturbation of v, λ penalizes the distance from s. The next
step starts from (h, c). With ε = 0 this is the ordinary LSTM.

Backward, for an incoming ∂L/∂c and with M = I + ε G Gᵀ, a = M⁻¹ ∂L/∂c:

    ∂L/∂s = a  (12),      ∂L/∂G = −ε (a cᵀ + c aᵀ) G  (21). The assignment sets ε = 1 there.

G itself depends on v, on the previous h and c, and on the weights, so that a second-order term
reaches all of them: the gradient of ⟨∂L/∂G, G⟩ with ∂L/∂G held constant. For h and c it is (6) in
(5) and (8) in (7); for the weights (4) leaves it out, but they need it too. Since ∂L/∂G has rank
two, this term is the gradient of −ε ⟨Gᵀa, Gᵀc⟩ with a and c held constant, which takes two
vector-Jacobian products of the cell and no loop over units. With respect to ε itself,
∂L/∂ε = −⟨Gᵀa, Gᵀc⟩.
"""

import ctypes
import functools
import math
import os
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, vjp, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


def without_autocast(method):
    """Decorate a method of an autograd function to compute in the precision of its arguments."""
    @functools.wraps(method)
    def wrapper(*args):
        kind = next((x.device.type for x in args if torch.is_tensor(x)), 'cpu')
        with torch.autocast(kind, enabled=False):
            return method(*args)

    return wrapper


class ProximalStep(torch.autograd.Function):
    """One step (v, h, c) → (h', c') of an LSTM cell, treated as a black box, then the proximal map.

    Shapes: epsilon 0-d; v [B, D]; h, c, h', c' [B, H]; weights as in `nn.LSTMCell`, with or without
    biases. All of one dtype and device. Derivatives of every order are right.
    """

    generate_vmap_rule = True

    @staticmethod
    @without_autocast
    def forward(epsilon, *inputs):
        s, GT, h_next = run_cell(*inputs)
        factor = factorize(epsilon, s, GT)
        return h_next, solve(s, factor), factor  # (3)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, c_next, factor = output
        ctx.mark_non_differentiable(factor)
        ctx.save_for_backward(c_next, factor, *inputs)

    @staticmethod
    @without_autocast
    def backward(ctx, grad_h, grad_c, _):
        c_next, factor, epsilon, *inputs = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: the factor depends on the inputs
            s, GT, _ = run_cell(*inputs)
            factor = factorize(epsilon, s, GT)
        a = solve(grad_c, factor)  # (12), ∂L/∂s

        def scalar(epsilon, *inputs):
            s, GT, h_next = run_cell(*inputs)
            (Ga,), (Gc,) = GT(a), GT(c_next)
            return (h_next * grad_h).sum() + (s * a).sum() - epsilon * (Ga * Gc).sum()

        # Its gradient, with grad_h, a and c_next constant, is (4), (5) and (7). The last term gives
        # (6) and (8), by (21), and what (4) leaves out.
        return grad(scalar, argnums=tuple(range(1 + len(inputs))))(epsilon, *inputs)


def run_cell(v, h, c, *weights):
    """Return the cell's s, the function x → Gᵀx, and h'."""
    return vjp(lambda v: torch.lstm_cell(v, (h, c), *weights)[::-1], v, has_aux=True)


def factorize(epsilon, s, GT):
    """Return the Cholesky factor of M = I + ε G Gᵀ, [B, H, H]."""
    identity = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
    G, = vmap(GT)(identity[:, None].expand(-1, *s.shape))  # (2), one row per unit
    G = G.transpose(0, 1)  # [B, H, D]
    return torch.linalg.cholesky(identity + epsilon * G @ G.mT)


def solve(b, factor):
    """Return M⁻¹ b for b [B, H]."""
    return torch.cholesky_solve(b.unsqueeze(2), factor).squeeze(2)


class ProxLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` with the proximal map on its cell state: `(input, (h, c)) -> (h', c')`.

    Readable rather than fast: it forms G and factorizes an H×H matrix per sample. `epsilon` ≥ 0
    weighs the proximal term; 0 is exactly `nn.LSTMCell`. Shapes and parameter names are those of
    `nn.LSTMCell`, so state dicts are exchangeable: input [B, D] or [D], states [B, H] or [H], zero
    where `hx` is absent. Half precision is computed in float32. `forward` takes an `epsilon`, too,
    in place of the cell's own, and computes a gradient for it if it is a tensor that requires one.

    Derivatives of every order are right, in reverse mode. `torch.func` (but forward mode),
    `torch.inference_mode` and `torch.compile` work; `torch.export` and `torch.jit.trace` fail.

    Raises ValueError for a negative or non-finite epsilon, and torch.linalg.LinAlgError where the
    matrix is not positive definite: for NaN in the input, or where ε G Gᵀ exhausts the precision.
    """

    def __init__(self, input_size, hidden_size, bias=True, device=None, dtype=None, *, epsilon=1.0):
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.epsilon = check_own_epsilon(epsilon)

    def forward(self, input, hx=None, epsilon=None):
        epsilon = check_epsilon(self.epsilon if epsilon is None else epsilon)
        if is_zero(epsilon) or input.dim() not in (1, 2):
            return super().forward(input, hx)  # it refuses other dimensions
        if input.dim() == 1:
            hx = None if hx is None else tuple(x[None] for x in hx)
            h, c = self.forward(input[None], hx, epsilon)
            return h[0], c[0]
        if hx is None:
            hx = [input.new_zeros(len(input), self.hidden_size) for _ in range(2)]
        weights = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)[:2 + 2 * self.bias]
        v, *others = map(widen, (input, *hx, *weights))
        epsilon = torch.as_tensor(epsilon, dtype=v.dtype, device=v.device)
        h, c, _ = ProximalStep.apply(epsilon, v, *others)
        return h.to(input.dtype), c.to(input.dtype)

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


def widen(x):
    """Return a half-precision tensor in float32, and any other as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def check_epsilon(epsilon, shape=()):
    """Return a number as a float; a tensor, or a sequence of numbers or tensors, as a tensor.

    Raises ValueError unless it expands to `shape`, is finite in float32, and is not negative.
    """
    try:
        if isinstance(epsilon, (list, tuple)):
            epsilon = torch.stack([torch.as_tensor(x, dtype=torch.float64) for x in epsilon])
        elif not isinstance(epsilon, (int, float)):
            epsilon = torch.as_tensor(epsilon)
        is_tensor = torch.is_tensor(epsilon)
        values = epsilon.expand(shape).flatten().tolist() if is_tensor else [epsilon]
        valid = all(0 <= x <= torch.finfo(torch.float32).max for x in values)
    except (TypeError, ValueError, RuntimeError):
        valid = False
    if not valid:
        expected = f', or {shape[0]} of them' if shape else ''
        raise ValueError(f'epsilon is {epsilon}, expected a finite number that is not negative'
                         f'{expected}')
    return epsilon if is_tensor else float(epsilon)


def check_own_epsilon(epsilon, shape=()):
    """Check the epsilon of a module, which is no parameter of it."""
    epsilon = check_epsilon(epsilon, shape)
    if torch.is_tensor(epsilon) and epsilon.requires_grad:
        raise ValueError('epsilon requires a gradient: pass it to forward')
    return epsilon


def is_zero(epsilon):
    """Tell whether the ordinary LSTM suffices: every epsilon is 0 and none requires a gradient."""
    if torch.is_tensor(epsilon):
        return not epsilon.requires_grad and not epsilon.any()
    return epsilon == 0


# ProxLSTM warns where a bound of the condition number of M, 1 + ε‖G‖² or more, exceeds it.
CONDITION_LIMIT = {torch.float32: 2e4, torch.float64: 1e10}


class ProxLSTM(nn.LSTM):
    """`nn.LSTM` with the proximal map on every step's cell state, in every layer and direction.

    It computes what a loop over `ProxLSTMCell` does, faster. The method is that of M. Li, Y. Ma and
    X. Zhang, "Proximal mapping for deep regularization", NeurIPS 2020.

    `(input, (h_0, c_0)=None, epsilon=None) -> output, (h_n, c_n)`. Arguments, shapes, packed
    sequences and parameter names are those of `nn.LSTM`, so that state dicts are exchangeable;
    only `proj_size` is not supported. `c_n` is the proximal state of each sequence's last step,
    from which a caller can continue. Half precision, and float32 under autocast, is computed in
    float32 and returned as `nn.LSTM` returns it.

    `epsilon` ≥ 0 is a number or one number per layer; 0 in all layers is exactly `nn.LSTM`. The
    `epsilon` of `forward` takes the place of the layer's own. It gets a gradient if it is a tensor
    that requires one, so that it can be learned or tuned:

        log_epsilon = torch.zeros((), requires_grad=True)
        output, _ = layer(input, epsilon=log_epsilon.exp())
        output.square().mean().backward()                     # log_epsilon.grad

    Derivatives of every order are right, in reverse mode. From the second on (`create_graph=True`,
    and in `torch.func`) they are computed through `ProxLSTMCell`'s step, which is slow, and raises
    torch.linalg.LinAlgError for NaN. `torch.func.vmap` and forward mode fail. `torch.compile` runs
    the layer uncompiled; `torch.export` and `torch.jit.trace` fail.

    The linear systems are solved directly in float32 on a CPU with a C compiler, for H below 128
    (unless the environment has PROXLSTM_NATIVE=0), and otherwise iteratively. On the models of
    training.py with ε from 0.1 to 300, the relative error of the gradients is below 1e-4 by the
    direct solver, below 3e-3 by the iterative one in float32, where it depends on the other samples
    of the batch, and below 1e-9 in float64. Where 1 + ε‖G‖² exceeds `CONDITION_LIMIT`, results may
    be less accurate, or NaN, and a RuntimeWarning is issued.

    Raises ValueError for a negative or non-finite epsilon and for `proj_size`; ValueError or
    RuntimeError for input of a wrong shape or type.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dropout=0.0, bidirectional=False, proj_size=0, device=None, dtype=None, *,
                 epsilon=1.0):
        if proj_size:
            raise ValueError(f'proj_size={proj_size} is not supported by ProxLSTM')
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout,
                         bidirectional, device=device, dtype=dtype)
        self.epsilon = check_own_epsilon(epsilon, (num_layers,))

    def forward(self, input, hx=None, epsilon=None):
        epsilon = check_epsilon(self.epsilon if epsilon is None else epsilon, (self.num_layers,))
        if is_zero(epsilon):
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            self.check_input(input.data, input.batch_sizes)
            padded, lengths = pad_packed_sequence(PackedSequence(input.data, input.batch_sizes))
            hx = None if hx is None else self.permute_hidden(hx, input.sorted_indices)
            output, states = self.run(padded, hx, epsilon, lengths)
            packed = pack_padded_sequence(output, lengths)._replace(
                sorted_indices=input.sorted_indices, unsorted_indices=input.unsorted_indices)
            return packed, self.permute_hidden(states, input.unsorted_indices)
        if input.dim() == 2:  # without a batch
            batch_dim = 0 if self.batch_first else 1
            hx = None if hx is None else tuple(x.unsqueeze(1) for x in hx)
            output, states = self.forward(input.unsqueeze(batch_dim), hx, epsilon)
            return output.squeeze(batch_dim), tuple(x.squeeze(1) for x in states)
        self.check_input(input, None)
        output, states = self.run(input.transpose(0, 1) if self.batch_first else input, hx, epsilon)
        return output.transpose(0, 1) if self.batch_first else output, states

    @torch.compiler.disable  # it would be compiled piece by piece, over and over
    def run(self, input, hx, epsilon, lengths=None):
        """Compute output [T, B, directions·H] and h_n and c_n [layers·directions, B, H].

        input is [T, B, D]; lengths [B] are those of padded sequences.
        """
        T, B, _ = input.shape
        dtype, device, directions = input.dtype, input.device, 1 + self.bidirectional
        full_dtype = torch.promote_types(dtype, torch.float32)
        autocast = full_dtype == torch.float32 and torch.is_autocast_enabled(device.type)
        if T == 0:
            raise ValueError('input has no steps, expected at least one')
        shape = self.num_layers * directions, B, self.hidden_size
        h_0, c_0 = 2 * (input.new_zeros(shape),) if hx is None else hx
        for name, x in {'h_0': h_0, 'c_0': c_0}.items():
            if x.shape != shape or x.device != device or not (x.dtype == dtype or autocast):
                raise ValueError(f'{name} is {x.dtype} {tuple(x.shape)} on {x.device}, expected '
                                 f'{dtype} {shape} on {device}')
        last, backwards = (-1, slice(B)), (torch.arange(T - 1, -1, -1, device=device), slice(B))
        if lengths is not None:
            lengths, samples = lengths.to(device), torch.arange(B, device=device)
            last = lengths, samples
            # Each sequence is reversed within its own length, and so is the padding behind it.
            backwards = (lengths + backwards[0][:, None]) % T, samples

        epsilons = torch.as_tensor(epsilon, dtype=full_dtype, device=device)
        each = iter(zip(h_0, c_0, self.all_weights))
        output, h_n, c_n, bounds = input, [], [], []
        for layer, layer_epsilon in enumerate(epsilons.expand(self.num_layers)):
            v = F.dropout(output, self.dropout, self.training) if layer else output
            outputs = []
            for reverse in range(directions):
                h, c, weights = next(each)
                # Matrix products of a multiple of four rows take up to a fifth less time.
                padded = (F.pad(x, (0, 0, 0, -B % 4))
                          for x in (v[backwards] if reverse else v, h, c))
                tensors = layer_epsilon, *map(widen, (*padded, *weights))
                differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
                h_all, c_all, solver, *_ = ProximalSequence.apply(differentiable, *tensors)
                outputs.append(h_all[1:][backwards] if reverse else h_all[1:, :B])
                h_n.append(h_all[last])
                c_n.append(c_all[last])
                bounds.append(solver.bound)
            output = torch.cat(outputs, 2)
        limit = CONDITION_LIMIT[full_dtype]
        if max(bounds) > limit:
            warnings.warn(f'ProxLSTM: 1 + ε‖G‖² is up to {max(bounds):.0e}, above {limit:.0e}, so '
                          f'that results may be inaccurate; use a smaller epsilon or float64',
                          RuntimeWarning)
        if autocast:
            dtype = torch.get_autocast_dtype(device.type)
        return output.to(dtype), (torch.stack(h_n).to(dtype), torch.stack(c_n).to(dtype))

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


# ------------------------------------------------------------- everything below is only speed
# It writes out the steps of `ProximalStep` for the LSTM's own gates. W_k [H, D] are the rows of
# `weight_ih` of the gates k = i, f, g, and W [3H, D] all of them, so that G = Σ_k diag(α_k) W_k.
# Ga and Gc are Gᵀa and Gᵀc [B, D], as in `ProximalStep`. WGa and WGc contain ε: they are ε W Gᵀa
# and ε W Gᵀc [B, 3H].

class ProximalSequence(torch.autograd.Function):
    """All steps of a sequence at once: (input, h, c) → the h and c before and after every step.

    With the gates i, f, o = σ(z_i), σ(z_f), σ(z_o) and g = tanh(z_g), where z is affine in v and
    the previous h, and with the previous state c₋, s = f ⊙ c₋ + i ⊙ g. Let α_k = ∂s/∂z_k. The
    derivative of the second-order term −ε ⟨Gᵀa, Gᵀc⟩ with respect to α_k is −β_k,
    β_k = ε (a ⊙ W_k Gᵀc + c ⊙ W_k Gᵀa), and the derivatives of α_k are the second derivatives of s.
    β needs only by-products of the solver.

    Shapes: epsilon 0-d; input [T, B, D]; h and c [B, H]; weights as in `nn.LSTM`; both results
    [T+1, B, H]. Further results are the solver, and, if `differentiable`, what the backward pass
    needs: tensors that grow as T·B·(H + D).
    """

    CHUNK = 16  # steps whose derivatives are computed together: few operations, and little memory

    @staticmethod
    @without_autocast
    def forward(differentiable, epsilon, input, h, c, weight_ih, weight_hh, *biases):
        T, B, D = input.shape
        H = h.shape[1]
        z_all = F.linear(input, weight_ih, sum(biases) if biases else None)
        h_all, c_all = input.new_empty(2, T + 1, B, H)
        h_all[0], c_all[0] = h, c
        products = [input.new_empty(T, B, size) for size in (D, 3 * H) if differentiable]  # Gc, WGc
        solver = make_solver(weight_ih, epsilon, B)
        alpha = input.new_empty(B, 3, H)
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        weight_hh_T = weight_hh.T
        steps = zip(z_all, z_all[:, :, :2 * H], *z_all.chunk(4, 2), h_all, c_all, h_all[1:],
                    c_all[1:], *products)
        for z, i_and_f, i, f, g, o, h, c, h_next, *out in steps:
            z.addmm_(h, weight_hh_T)
            i_and_f.sigmoid_()  # in place: z_all becomes gates_all
            g.tanh_()
            o.sigmoid_()
            ig = i * g
            s = torch.addcmul(ig, f, c)
            torch.mul(o, s.tanh(), out=h_next)
            slope_i, slope_f = torch.addcmul(i_and_f, i_and_f, i_and_f, value=-1).chunk(2, 1)  # σ'
            torch.mul(g, slope_i, out=alpha_i)
            torch.mul(c, slope_f, out=alpha_f)
            torch.addcmul(i, ig, g, value=-1, out=alpha_g)
            solver.solve(alpha, s, out)
        return h_all, c_all, solver, z_all, *products

    @staticmethod
    def setup_context(ctx, inputs, output):
        h_all, c_all, _, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(h_all, c_all, *saved, *inputs[1:])

    @staticmethod
    @without_autocast
    def backward(ctx, grad_h_all, grad_c_all, *_):
        h_all, c_all, gates_all, Gc_all, WGc_all, *inputs = ctx.saved_tensors
        grads = [torch.zeros_like(h_all) if x is None else x for x in (grad_h_all, grad_c_all)]
        if torch.is_grad_enabled():  # create_graph=True
            return None, *vjp(run_steps, *(x.view_as(x) for x in inputs))[1](tuple(grads))

        epsilon, input, _, _, weight_ih, weight_hh, *biases = inputs
        T, B, D = input.shape
        H, CHUNK = h_all.shape[2], ProximalSequence.CHUNK
        solver = make_solver(weight_ih, epsilon, B)  # of its own: backward passes may be concurrent
        gates_all, WGc_all = gates_all.unflatten(2, (4, H)), WGc_all.unflatten(2, (3, H))
        h_before, c_before, c_all = h_all[:-1], c_all[:-1], c_all[1:]
        grad_epsilon, grad_input, _, _, *grads_weights = (
            x.new_zeros(x.shape) if needed else None
            for x, needed in zip(inputs, ctx.needs_input_grad[1:]))
        # What the loss contributes to the gradient of each state, from the initial one to the last.
        grads_h, grads_c = map(list, grads)
        grad_h, grad_c = grads_h.pop(), grads_c.pop()
        WGa = input.new_empty(B, 3, H)

        for start in reversed(range(0, T, CHUNK)):
            chunk = slice(start, start + CHUNK)
            c, Gc, WGc = c_all[chunk], Gc_all[chunk], WGc_all[chunk]
            cell = CellDerivatives.of(gates_all[chunk], c_before[chunk])
            grad_gates, a, Ga = (torch.empty_like(x) for x in (gates_all[chunk], c, Gc))
            grad_z = grad_gates.flatten(2)
            steps = zip(grad_z, map(CellDerivatives._make, zip(*cell)), c[:, :, None], WGc,
                        a, Ga, zip(grad_gates[:, :, :3], *grad_gates.unbind(2)))
            for grad_z_t, cell_t, c_t, WGc_t, a_t, Ga_t, grad_z_views in reversed(list(steps)):
                solver.solve(cell_t.alpha, grad_c, (a_t, Ga_t, WGa.flatten(1)))
                beta = torch.mul(a_t[:, None], WGc_t).addcmul_(c_t, WGa)
                grad_s = torch.addcmul(a_t, grad_h, cell_t.dh_ds)
                write_grad_z(grad_z_views, cell_t, grad_h, grad_s, beta)
                grad_c = torch.addcmul(grads_c.pop(), grad_s, cell_t.ds_dc)
                grad_c.addcmul_(cell_t.d2s_fc, beta[:, 1], value=-1)
                grad_h = torch.addmm(grads_h.pop(), grad_z_t, weight_hh)
            if grad_input is not None:
                torch.mm(grad_z.flatten(0, 1), weight_ih, out=grad_input[chunk].flatten(0, 1))
            if grad_epsilon is not None:
                grad_epsilon -= (Ga * Gc).sum()
            add_weight_gradients(grads_weights, grad_z, input[chunk], h_before[chunk], cell,
                                 [(a, Gc), (c, Ga)], epsilon)
        return None, grad_epsilon, grad_input, grad_h, grad_c, *grads_weights


def run_steps(epsilon, input, h, c, *weights):
    """Compute what `ProximalSequence` does, step by step, with derivatives of every order."""
    states = [(h, c)]
    for v in input:
        states.append(ProximalStep.apply(epsilon, v, *states[-1], *weights)[:2])
    return tuple(map(torch.stack, zip(*states)))


class CellDerivatives(NamedTuple):
    """Derivatives of s = f c₋ + i g and h = o tanh(s), [T, B, ...] for a chunk of steps."""
    alpha: torch.Tensor   # ∂s/∂z_k, stacked over the gates k = i, f, g  [B, 3, H]
    ratio: torch.Tensor   # ∂²s/∂z_k² over ∂s/∂z_k, likewise             [B, 3, H]
    d2s_ig: torch.Tensor  # ∂²s/∂z_i∂z_g                                 [B, H]
    d2s_fc: torch.Tensor  # ∂²s/∂z_f∂c₋                                  [B, H]
    ds_dc: torch.Tensor   # ∂s/∂c₋                                       [B, H]
    dh_ds: torch.Tensor   # ∂h/∂s                                        [B, H]
    dh_do: torch.Tensor   # ∂h/∂z_o                                      [B, H]

    @classmethod
    def of(cls, gates, c):
        """Compute those of a chunk with these gates [T, B, 4, H] and previous c₋ [T, B, H]."""
        i, f, g, o = gates.unbind(2)
        ig = i * g
        tanh_s = torch.addcmul(ig, f, c).tanh_()
        slope_i, slope_f = i - i * i, f - f * f  # σ' = σ − σ²
        alpha = torch.stack([g * slope_i, c * slope_f, i - ig * g], 2)
        ratio = gates.new_tensor([[1], [1], [0]]).sub(gates[:, :, :3], alpha=2)
        dh_ds = torch.addcmul(o, o * tanh_s, tanh_s, value=-1)
        return cls(alpha, ratio, (1 - g * g) * slope_i, slope_f, f, dh_ds, tanh_s * (o - o * o))


def write_grad_z(views, cell, grad_h, grad_s, beta):
    """Write a step's ∂L/∂z to `views`: of the gates i, f, g together, and of i, f, g, o."""
    grad_z_ifg, grad_z_i, _, grad_z_g, grad_z_o = views
    beta_i, _, beta_g = beta.unbind(1)
    torch.addcmul(grad_s[:, None], cell.ratio, beta, value=-1, out=grad_z_ifg).mul_(cell.alpha)
    grad_z_i.addcmul_(cell.d2s_ig, beta_g, value=-1)
    grad_z_g.addcmul_(cell.d2s_ig, beta_i, value=-1)
    torch.mul(grad_h, cell.dh_do, out=grad_z_o)


def add_weight_gradients(grads, grad_z, input, h, cell, pairs, epsilon):
    """Add a chunk's gradients to those of `grads` that are not None, in the weights' order.

    The second-order term adds −ε Σ diag(α_k) (a Gcᵀ + c Gaᵀ), summed over steps and samples, to
    the rows of gate k of weight_ih; `pairs` are (a, Gc) and (c, Ga). Overwrites `cell.ratio`.
    """
    grad_weight_ih, grad_weight_hh, *grads_biases = grads
    grad_z, input, h = (x.flatten(0, 1) for x in (grad_z, input, h))
    if grad_weight_ih is not None:
        grad_weight_ih.addmm_(grad_z.T, input)
        for x, Gx in pairs:
            alpha_x = torch.mul(cell.alpha, x[:, :, None], out=cell.ratio)
            rows = alpha_x.flatten(2).flatten(0, 1).T
            grad_weight_ih[:len(rows)].addmm_(rows, Gx.flatten(0, 1), alpha=-float(epsilon))
    if grad_weight_hh is not None:
        grad_weight_hh.addmm_(grad_z.T, h)
    for grad_bias in grads_biases:
        if grad_bias is not None:
            grad_bias += grad_z.sum(0)


def make_solver(weight_ih, epsilon, batch):
    """Return the solver of B systems M x = b with M = I + ε G Gᵀ, which never forms G.

    Its method `solve(alpha, b, out)` writes x [B, H], Gᵀx [B, D] and ε W Gᵀx [B, 3H] to `out`, or x
    alone if that is all `out` holds, for alpha [B, 3, H] and b [B, H]. A sample with NaN or
    infinity leaves the others alone. `bound` is the largest upper bound so far of a condition
    number, 1 + ε‖G‖² or more.
    """
    native = weight_ih.dtype == torch.float32 and weight_ih.device.type == 'cpu'
    if native and len(weight_ih) < 4 * DENSE and load_native():
        return Cholesky(weight_ih, epsilon)
    return ConjugateGradients(weight_ih, epsilon, batch)


DENSE = 128  # hidden units below which matrices H×H pay


class ConjugateGradients:
    """Preconditioned conjugate gradients in the usual letters, but with r = M x − b.

    Each system has its own step lengths; an iteration takes two matrix products for all. It stops
    when each system's error in the norm of M, relative to the solution's, is estimated to be below
    `TOLERANCE` / √bound. The estimate takes the next step to be as long as the last one, and the
    result includes that step. (Hestenes and Stiefel, 1952: the squared norm of the error falls by
    step · rz in each iteration.)

    The preconditioner is E Q E. E = diag(1 + ε (Σ_k |α_k| ‖W_k‖)²)^−½, with the norms of W_k's
    rows, nearly scales M to a unit diagonal. Q is the inverse of what M is then for a typical α_g
    of ½ alone, since the gate g makes most of G. It is the same for all systems and steps, and I
    from `DENSE` units up, where products with Q cost more than the iterations they save.
    """

    TOLERANCE = {torch.float32: 7e-3, torch.float64: 1e-11}
    MAX_ITERATIONS = 1000

    def __init__(self, weight_ih, epsilon, batch):
        H, D = len(weight_ih) // 4, weight_ih.shape[1]
        self.W, self.epsilon = weight_ih[:3 * H], float(epsilon)
        self.W_T = self.W.T
        self.norms = epsilon.sqrt() * torch.linalg.vector_norm(self.W, dim=1).view(3, H)
        self.tolerance = self.TOLERANCE[weight_ih.dtype]
        self.tiny = torch.finfo(weight_ih.dtype).tiny
        self.check_every = 4 if weight_ih.is_cuda else 1  # a check waits for the device
        self.bounds = weight_ih.new_ones(batch, 1)  # the largest of each sample
        self.iterations = 0  # of the last solve()
        self.Q = None
        if H < DENSE:
            W_g, E = self.W[2 * H:], (1 + self.norms[2].square() / 4).rsqrt()
            scaled_G = epsilon.sqrt() / 2 * E[:, None] * W_g
            # The 1e-3 on the unit diagonal keeps Q positive definite in float32 for any epsilon.
            scaled_M = torch.diag(E * E + 1e-3) + scaled_G @ scaled_G.T
            self.Q = torch.linalg.inv_ex(scaled_M).inverse  # a diverged model gives NaN, no error

        # M p, p, Gᵀp, ε W Gᵀp for the direction p, and M x − b, x, Gᵀx, ε W Gᵀx for the solution x.
        self.direction, self.solution = (
            [weight_ih.new_empty(batch, size) for size in (H, H, D, 3 * H)] for _ in range(2))
        self.alpha_p = weight_ih.new_empty(batch, 3, H)
        self.z, self.scaled = weight_ih.new_empty(2, batch, H)

    @property
    def bound(self):
        return self.bounds.max().item() if len(self.bounds) else 1.0

    def precondition(self, r, scale, out):
        """Write E Q E r to `out`."""
        if self.Q is None:
            return torch.mul(r, scale, out=out).mul_(scale)
        return torch.mm(torch.mul(r, scale, out=self.scaled), self.Q, out=out).mul_(scale)

    def solve(self, alpha, b, out):
        diagonal = alpha.abs().mul_(self.norms).sum(1).square_()  # of ε G Gᵀ, or above
        bound = diagonal.sum(1, keepdim=True).add_(1)
        self.bounds = torch.fmax(self.bounds, bound)  # which ignores NaN
        scale = diagonal.add_(1).rsqrt_()
        share = self.tolerance ** 2 / bound
        norm = b.abs().amax(1, keepdim=True).clamp_min_(self.tiny)  # squares must not underflow
        (Mp, p, Gp, WGp), (r, x, Gx, WGx), z = self.direction, self.solution, self.z
        for product in x, Gx, WGx:
            product.zero_()
        torch.div(b, -norm, out=r)
        self.precondition(r, scale, out=p)
        rz = (r * p).sum(1, keepdim=True)
        goal = torch.zeros_like(rz)
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        WGp_i, WGp_f, WGp_g = WGp.chunk(3, 1)
        for iteration in range(1, self.MAX_ITERATIONS + 1):
            torch.mul(alpha, p[:, None], out=self.alpha_p)
            torch.mm(self.alpha_p.flatten(1), self.W, out=Gp)
            torch.addmm(WGp, Gp, self.W_T, beta=0, alpha=self.epsilon, out=WGp)
            torch.addcmul(p, alpha_i, WGp_i, out=Mp)
            Mp.addcmul_(alpha_f, WGp_f).addcmul_(alpha_g, WGp_g)
            step = rz / (p * Mp).sum(1, keepdim=True).clamp_min_(self.tiny)
            for total, product in zip(self.solution, self.direction):
                total.addcmul_(step, product, value=-1)
            self.precondition(r, scale, out=z)
            rz, previous = (r * z).sum(1, keepdim=True), rz
            goal.addcmul_(share * step, previous)
            torch.addcmul(z, rz / previous.clamp_min(self.tiny), p, out=p)
            if iteration % self.check_every == 0 and not (step * rz > goal).any():
                break
        else:
            self.bounds.fill_(math.inf)
        self.iterations = iteration
        x.addcmul_(step, p, value=-1)
        for product, result in zip((x, Gx, WGx), out):
            torch.mul(product, norm, out=result)


class Cholesky:
    """A direct solver in C for float32 on the CPU, with the samples side by side in SIMD lanes.

    The relative error is about 1e-7 times the condition number; above 1e7 there may be NaN.
    """

    def __init__(self, weight_ih, epsilon):
        H = len(weight_ih) // 4
        self.W, self.epsilon = weight_ih[:3 * H], float(epsilon)
        self.W_T = self.W.T
        self.K = epsilon * (self.W @ self.W_T)
        self.bound = 1.0
        self.compiled = load_native()
        self.workspace = weight_ih.new_zeros(self.compiled.workspace(H))

    def solve(self, alpha, b, out):
        x, *products = out
        alpha, b = alpha.contiguous(), b.contiguous()
        alpha_x = b.new_empty(len(b), 3 * b.shape[1])
        tensors = self.K, alpha, b, x, alpha_x, self.workspace
        bound = self.compiled.solve(*b.shape, *(tensor.data_ptr() for tensor in tensors))
        self.bound = max(self.bound, bound)
        if products:
            Gx, WGx = products
            torch.mm(alpha_x, self.W, out=Gx)
            torch.addmm(WGx, Gx, self.W_T, beta=0, alpha=self.epsilon, out=WGx)


@functools.cache
def load_native():
    """Compile `SOURCE` and return it as a ctypes library, or None if that is not possible.

    The environment variable PROXLSTM_NATIVE=0 switches it off.
    """
    if os.environ.get('PROXLSTM_NATIVE') == '0':
        return None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / 'solver.so'
            command = ['cc', '-O3', '-march=native', '-funroll-loops', '-fno-math-errno',
                       '-shared', '-fPIC', '-o', path, '-x', 'c', '-']
            subprocess.run(command, input=SOURCE.encode(), capture_output=True, check=True)
            library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None
    library.workspace.argtypes, library.workspace.restype = [ctypes.c_long], ctypes.c_long
    library.solve.argtypes = 2 * [ctypes.c_long] + 6 * [ctypes.c_void_p]
    library.solve.restype = ctypes.c_float
    return library


def describe_solver():
    """Describe the solver for float32 on the CPU, on which the last digits depend."""
    library = load_native()
    return f'native, {library.lanes()} lanes' if library else 'PyTorch'


SOURCE = r"""
#if defined __AVX512F__   /* vectors as wide as the CPU's: wider ones are ten times slower */
#define LANES 16
#elif defined __AVX__
#define LANES 8
#else
#define LANES 4
#endif
#define BLOCK 4           /* rows of the factor that are computed together */
#define ROW(i) (factor + (i) * ((i) + 1) / 2)

typedef float vector __attribute__((vector_size(4 * LANES)));

int lanes(void) { return LANES; }

/* in floats; the memory must be aligned to the vectors */
long workspace(long H) { return LANES * (5 * H + (H + BLOCK) * (H + BLOCK + 1) / 2); }

/* x = (I + sum_gh diag(alpha_g) K_gh diag(alpha_h))^-1 b for B samples, LANES at a time. Spare
   lanes repeat the last sample. Returns the largest trace. */
float solve(long B, long H, const float *K, const float *alpha, const float *b, float *x,
            float *alpha_x, vector *memory)
{
    vector *a = memory, *y = a + 3 * H, *scale = y + H, *factor = scale + H;
    float largest = 0;
    for (long first = 0; first < B; first += LANES) {
        for (long l = 0; l < LANES; l++) {
            long sample = first + l < B ? first + l : B - 1;
            for (long k = 0; k < 3 * H; k++) a[k][l] = alpha[3 * H * sample + k];
            for (long i = 0; i < H; i++) y[i][l] = b[H * sample + i];
        }
        vector trace = {0};
        for (long i = 0; i < H; i++) {
            for (long j = 0; j <= i; j++) {
                const float *k = K + 3 * H * i + j;
                vector sum = {0};
                for (long h = 0; h < 3; h++, k += H)
                    sum += a[h * H + j] * (a[i] * k[0] + a[H + i] * k[3 * H * H]
                                           + a[2 * H + i] * k[6 * H * H]);
                ROW(i)[j] = sum;
            }
            trace += ROW(i)[i];
            ROW(i)[i] += 1;
        }
        for (long l = 0; l < LANES; l++)
            if (trace[l] > largest) largest = trace[l];
        for (long j = 0; j < H; j++) {
            vector *pivot = ROW(j), square = pivot[j];
            for (long k = 0; k < j; k++) square -= pivot[k] * pivot[k];
            for (long l = 0; l < LANES; l++) scale[j][l] = 1 / __builtin_sqrtf(square[l]);
            for (long i = j + 1; i < H; i += BLOCK) {  /* may run into spare rows */
                vector sum[BLOCK];
                for (long r = 0; r < BLOCK; r++) sum[r] = ROW(i + r)[j];
                for (long k = 0; k < j; k++)
                    for (long r = 0; r < BLOCK; r++) sum[r] -= ROW(i + r)[k] * pivot[k];
                for (long r = 0; r < BLOCK; r++) ROW(i + r)[j] = sum[r] * scale[j];
            }
        }
        for (long i = 0; i < H; i++) {
            for (long k = 0; k < i; k++) y[i] -= ROW(i)[k] * y[k];
            y[i] *= scale[i];
        }
        for (long i = H; i-- > 0; ) {
            y[i] *= scale[i];
            for (long k = 0; k < i; k++) y[k] -= ROW(i)[k] * y[i];
        }
        for (long l = 0; l < LANES && first + l < B; l++)
            for (long i = 0; i < H; i++) {
                x[H * (first + l) + i] = y[i][l];
                for (long g = 0; g < 3; g++)
                    alpha_x[(3 * (first + l) + g) * H + i] = a[g * H + i][l] * y[i][l];
            }
    }
    return 1 + largest;
}
"""
