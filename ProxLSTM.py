"""LSTM layers whose cell state is a proximal map, so that it moves little when the step's input is perturbed.

    python -m pytest tests/test_ProxLSTM.py

At each step an ordinary LSTM cell proposes the state s and the output h. The proximal layer keeps h and replaces s by

    c = argmin_c ½‖c − s‖² + ε/2 ‖Gᵀc‖² = (I + ε G Gᵀ)⁻¹ s,        G = ∂s/∂v  (per sample, H×D),

where v is the step's input and ε = δ²/λ weighs the perturbation's squared radius against staying close to s. The next
step starts from (h, c). With ε = 0 this is the ordinary LSTM.

Backward, for an incoming ∂L/∂c and with M = I + ε G Gᵀ, a = M⁻¹ ∂L/∂c:

    ∂L/∂s = a,        ∂L/∂G = −ε (a cᵀ + c aᵀ) G.

G itself depends on v, on the previous h and c, and on the weights, so that a second-order term reaches all of them.
It is the gradient of ⟨∂L/∂G, G⟩ with ∂L/∂G held constant; since ∂L/∂G has rank two, that equals the gradient of
−ε ⟨Gᵀa, Gᵀc⟩ with a and c held constant, which takes two vector-Jacobian products of the cell and no loop over units.

These are equations (3), (5)–(8), (12) and (21) of the assignment "Adversarial Training on Sequence Classification"
(CS 512, UIC, 2020). Its (21) sets ε = 1, and its (4) leaves out that the weights reach L through G too.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class ProximalStep(torch.autograd.Function):
    """One step (v, h, c) → (h', c') of an LSTM cell, treated as a black box, followed by the proximal map.

    Shapes: v [B, D]; h, c, h', c' [B, H]; weights as in `nn.LSTMCell`. All of one floating dtype and device.
    """

    @staticmethod
    def forward(ctx, epsilon, v, h, c, *weights):
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            basis = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)[:, None].expand(-1, len(s), -1)
            G, = torch.autograd.grad(s, v, basis, is_grads_batched=True)
        G = G.transpose(0, 1)
        M = torch.eye(s.shape[1], dtype=s.dtype, device=s.device) + epsilon * G @ G.mT
        factor = torch.linalg.cholesky(M)
        c_next = torch.cholesky_solve(s.detach().unsqueeze(2), factor).squeeze(2)
        ctx.epsilon = epsilon
        ctx.save_for_backward(factor, c_next, v, h, c, *weights)
        return h_next.detach(), c_next

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h, grad_c):
        factor, c_next, *inputs = ctx.saved_tensors
        a = torch.cholesky_solve(grad_c.unsqueeze(2), factor).squeeze(2)
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in inputs]
            v, h, c, *weights = inputs
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            Ga, = torch.autograd.grad(s, v, a, create_graph=True)
            Gc, = torch.autograd.grad(s, v, c_next, create_graph=True)
            # The scalar whose gradient is (4), (5) and (7): grad_h, a and c_next are constants in it.
            scalar = (h_next * grad_h).sum() + (s * a).sum() - ctx.epsilon * (Ga * Gc).sum()
        return None, *torch.autograd.grad(scalar, inputs)


class ProxLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` with the proximal map on its cell state: `(input, (h, c)) -> (h', c')`.

    Readable rather than fast: it forms G and factorises an H×H matrix per sample. `epsilon` ≥ 0 weighs the proximal
    term; 0 is exactly `nn.LSTMCell`. Shapes are those of `nn.LSTMCell`: input [B, D] or [D], states [B, H] or [H],
    zero where `hx` is absent; float32 or float64. The parameters keep their names, so state dicts are exchangeable.
    Gradients reach the input, both states and all parameters, once: a second differentiation raises RuntimeError.

    Raises ValueError for a negative or non-finite epsilon.
    """

    def __init__(self, input_size, hidden_size, *, epsilon=1.0, device=None, dtype=None):
        super().__init__(input_size, hidden_size, device=device, dtype=dtype)
        self.epsilon = check_epsilon(epsilon)

    def forward(self, input, hx=None):
        if self.epsilon == 0:
            return super().forward(input, hx)
        if input.dim() == 1:
            h, c = self(input[None], None if hx is None else tuple(state[None] for state in hx))
            return h[0], c[0]
        if hx is None:
            hx = 2 * (input.new_zeros(len(input), self.hidden_size),)
        return ProximalStep.apply(self.epsilon, input, *hx, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


class ProxLSTM(nn.LSTM):
    """One-layer `nn.LSTM` with the proximal map on every step's cell state.

    `(input, (h_0, c_0)=None, epsilon=None) -> output, (h_n, c_n)` with the shapes of `nn.LSTM`: input [T, B, D], or
    [B, T, D] with `batch_first`; output likewise with H features; states [1, B, H]. `c_n` is the proximal state of the
    last step, from which a caller can go on. `epsilon` in the call takes the place of the layer's own; 0 is exactly
    `nn.LSTM`. The parameters keep their names, so state dicts are exchangeable with `nn.LSTM`.

    Raises ValueError for a negative or non-finite epsilon.
    """

    def __init__(self, input_size, hidden_size, *, epsilon=1.0, batch_first=False, device=None, dtype=None):
        super().__init__(input_size, hidden_size, batch_first=batch_first, device=device, dtype=dtype)
        self.epsilon = check_epsilon(epsilon)

    def forward(self, input, hx=None, epsilon=None):
        epsilon = self.epsilon if epsilon is None else check_epsilon(epsilon)
        if epsilon == 0:
            return super().forward(input, hx)
        steps = input.unbind(1 if self.batch_first else 0)
        weights = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        h, c = 2 * (input.new_zeros(len(steps[0]), self.hidden_size),) if hx is None else (state[0] for state in hx)
        output = []
        for v in steps:
            h, c = ProximalStep.apply(epsilon, v, h, c, *weights)
            output.append(h)
        return torch.stack(output, dim=1 if self.batch_first else 0), (h[None], c[None])

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


def check_epsilon(epsilon):
    """`epsilon` as a float; ValueError unless it is finite and not negative."""
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f'epsilon is {epsilon}, expected a finite number that is not negative')
    return float(epsilon)
