"""LSTM layers whose cell state is a proximal map, so that perturbing the input moves it little.

M. Li, Y. Ma and X. Zhang, "Proximal mapping for deep regularization", NeurIPS 2020,
arXiv:2006.07822. Equations are numbered as in the assignment "Adversarial Training on Sequence
Classification" (CS 512, UIC, 2020).

At each step an ordinary LSTM cell computes the state s and the output h from the input v and the
previous h and c. The proximal layer keeps h and replaces s by (3)

    c = argmin_c ½‖c − s‖² + ε/2 ‖Gᵀc‖² = (I + ε G Gᵀ)⁻¹ s,      G = ∂s/∂v  (H×D, one per sample),

where ε = δ²/λ: δ bounds the perturbation of v, λ penalizes the distance from s. The next
step starts from (h, c). With ε = 0 this is the ordinary LSTM.

Backward, for an incoming ∂L/∂c and with M = I + ε G Gᵀ, a = M⁻¹ ∂L/∂c:

    ∂L/∂s = a  (12),      ∂L/∂G = −ε (a cᵀ + c aᵀ) G  (21). The assignment sets ε = 1 there.

G itself depends on v, on the previous h and c, and on the weights, so that a second-order term
reaches all of them: the gradient of ⟨∂L/∂G, G⟩ with ∂L/∂G held constant. For h and c it is (6) in
(5) and (8) in (7); for the weights (4) leaves it out, but they need it too. Since ∂L/∂G has rank
two, it equals the gradient of −ε ⟨Gᵀa, Gᵀc⟩ with a and c held constant, which takes two
vector-Jacobian products of the cell and no loop over units.
"""

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


class ProximalStep(torch.autograd.Function):
    """One step (v, h, c) → (h', c') of an LSTM cell, treated as a black box, then the proximal map.

    Shapes: v [B, D]; h, c, h', c' [B, H]; weights as in `nn.LSTMCell`. All of one dtype and device.
    """

    @staticmethod
    def forward(ctx, epsilon, v, h, c, *weights):
        with torch.enable_grad():
            v = v.detach().requires_grad_()
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            identity = torch.eye(s.shape[1], dtype=s.dtype, device=s.device)
            basis = identity[:, None].expand(-1, len(s), -1)
            G, = torch.autograd.grad(s, v, basis, is_grads_batched=True)  # (2), one row per unit
        G = G.transpose(0, 1)  # [B, H, D]
        M = identity + epsilon * G @ G.mT
        factor = torch.linalg.cholesky(M)
        c_next = torch.cholesky_solve(s.detach().unsqueeze(2), factor).squeeze(2)  # (3)
        ctx.epsilon = epsilon
        ctx.save_for_backward(factor, c_next, v, h, c, *weights)
        return h_next.detach(), c_next

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h, grad_c):
        factor, c_next, *inputs = ctx.saved_tensors
        a = torch.cholesky_solve(grad_c.unsqueeze(2), factor).squeeze(2)  # (12), ∂L/∂s
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in inputs]
            v, h, c, *weights = inputs
            h_next, s = torch.lstm_cell(v, (h, c), *weights)
            Ga, = torch.autograd.grad(s, v, a, create_graph=True)  # Gᵀa
            Gc, = torch.autograd.grad(s, v, c_next, create_graph=True)  # Gᵀc
            # Its gradient is (4), (5) and (7), with grad_h, a and c_next constant. The last term
            # is ⟨∂L/∂G, G⟩ of (6), (8) and (21).
            scalar = (h_next * grad_h).sum() + (s * a).sum() - ctx.epsilon * (Ga * Gc).sum()
        return None, *torch.autograd.grad(scalar, inputs)


class ProxLSTMCell(nn.LSTMCell):
    """`nn.LSTMCell` with the proximal map on its cell state: `(input, (h, c)) -> (h', c')`.

    Readable rather than fast: it forms G and factorizes an H×H matrix per sample. `epsilon` ≥ 0
    weighs the proximal term; 0 is exactly `nn.LSTMCell`. Shapes and parameter names are those of
    `nn.LSTMCell`, so state dicts are exchangeable: input [B, D] or [D], states [B, H] or [H], zero
    where `hx` is absent; float32 or float64. Gradients reach the input, both states and all
    parameters, once: a second differentiation raises RuntimeError. Raises ValueError for a negative
    or non-finite epsilon, and torch.linalg.LinAlgError where the matrix is not positive definite:
    for NaN in the input, or where ε G Gᵀ exhausts the precision.
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
        return ProximalStep.apply(self.epsilon, input, *hx, self.weight_ih, self.weight_hh,
                                  self.bias_ih, self.bias_hh)

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


def check_epsilon(epsilon):
    """Return `epsilon`, a number or 0-d tensor, as a float; ValueError unless finite and ≥ 0."""
    if torch.is_tensor(epsilon) and epsilon.requires_grad:
        raise ValueError('epsilon requires a gradient, but no gradient for it is computed')
    try:
        value = float(epsilon)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f'epsilon is {epsilon}, expected a finite number that is not negative')
    return value


class ProxLSTM(nn.LSTM):
    """One-layer `nn.LSTM` with the proximal map on every step's cell state.

    It computes what a loop over `ProxLSTMCell` does, faster. The method is that of M. Li, Y. Ma and
    X. Zhang, "Proximal mapping for deep regularization", NeurIPS 2020.

    `(input, (h_0, c_0)=None, epsilon=None) -> output, (h_n, c_n)`, shaped as by `nn.LSTM`: input
    [T, B, D], [B, T, D] with `batch_first`, [T, D] without a batch, or a `PackedSequence`; output
    likewise, with H features; states [1, B, H] or [1, H], zero where `hx` is absent; float32 or
    float64. `c_n` is the proximal state of each sequence's last step, from which a caller can
    continue. `epsilon`, a number or 0-d tensor, replaces the layer's own in one call; 0 is exactly
    `nn.LSTM`. State dicts are exchangeable with `nn.LSTM`. Gradients can be taken once: a second
    differentiation raises RuntimeError.

    The linear systems are solved iteratively: in float64 nearly to round-off, in float32 so that
    gradients have a relative error of 1e-5 to 1e-4 for ε up to 2, a few times that for ε of 5 to 30
    (and within that a sample's result depends on its batch).

    Raises ValueError for a negative or non-finite epsilon and for options of `nn.LSTM` that are not
    supported, ValueError or RuntimeError for input of a wrong shape or type.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False,
                 dropout=0.0, bidirectional=False, proj_size=0, *, epsilon=1.0, **factory_kwargs):
        if (num_layers, bias, dropout, bidirectional, proj_size) != (1, True, 0, False, 0):
            raise ValueError('ProxLSTM supports only num_layers=1, bias=True, dropout=0, '
                             'bidirectional=False, proj_size=0')
        super().__init__(input_size, hidden_size, batch_first=batch_first, **factory_kwargs)
        self.epsilon = check_epsilon(epsilon)

    def forward(self, input, hx=None, epsilon=None):
        epsilon = check_epsilon(self.epsilon if epsilon is None else epsilon)
        if epsilon == 0:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            return self.forward_packed(input, hx, epsilon)
        if input.dim() == 2:  # without a batch
            B = 0 if self.batch_first else 1
            hx = None if hx is None else [x[:, None] for x in hx]
            output, (h_n, c_n) = self.forward(input.unsqueeze(B), hx, epsilon)
            return output.squeeze(B), (h_n[:, 0], c_n[:, 0])
        self.check_input(input, None)
        output, c = self.run(input.transpose(0, 1) if self.batch_first else input, hx, epsilon)
        h_n, c_n = output[-1:], c[-1:]
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    def forward_packed(self, input, hx, epsilon):
        """Run padded, then take each sequence's own last state, which later steps don't affect."""
        padded, lengths = pad_packed_sequence(input)
        self.check_input(padded, None)
        output, c = self.run(padded, hx, epsilon)
        packed = pack_padded_sequence(output, lengths, enforce_sorted=input.sorted_indices is None)
        last = lengths - 1, torch.arange(len(lengths))
        return packed, (output[last][None], c[last][None])

    def run(self, input, hx, epsilon):
        """Compute every step's h and c, [T, B, H], for input [T, B, D]."""
        T, B, _ = input.shape
        if T == 0:
            raise ValueError('input has no steps, expected at least one')
        if input.dtype not in ConjugateGradients.TOLERANCE:
            raise ValueError(f'input is {input.dtype}, expected float32 or float64')
        expected = (1, B, self.hidden_size), input.dtype, input.device
        hx = hx or 2 * (input.new_zeros(expected[0]),)
        for name, state in zip(('h_0', 'c_0'), hx):
            actual = tuple(state.shape), state.dtype, state.device
            if actual != expected:
                raise ValueError(f'{name} has shape, type and device {actual}, expected {expected}')
        h, c = (state[0] for state in hx)
        # Matrix products of a multiple of four rows take up to a fifth less time.
        input, h, c = (F.pad(x, (0, 0, 0, -B % 4)) for x in (input, h, c))
        weights = self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        output, c = ProximalSequence.apply(epsilon, input, h, c, *weights)
        return output[:, :B].contiguous(), c[:, :B].contiguous()

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


# ------------------------------------------------------------- everything below is only speed
# It writes out the steps of `ProximalStep` for the LSTM's own gates. From here on, G and W contain
# the factor √ε: W [3H, D] is √ε times the rows of `weight_ih` of the gates k = i, f, g, so that
# G = Σ_k diag(α_k) W_k and M = I + G Gᵀ. Ga and Gc are Gᵀa and Gᵀc [B, D], as in `ProximalStep`;
# WGa and WGc are W Gᵀa and W Gᵀc [B, 3H].

class ProximalSequence(torch.autograd.Function):
    """All steps of a sequence at once: (input, h, c) → every step's h and c.

    The gates i, f, o = σ(z_i), σ(z_f), σ(z_o) and g = tanh(z_g), whose z are affine in v and the
    previous h, and the previous c₋ give s = f c₋ + i g; α_k = ∂s/∂z_k. The derivative of the
    second-order term −⟨Gᵀa, Gᵀc⟩ with respect to α_k is −β_k, β_k = a W_k Gᵀc + c W_k Gᵀa, and
    the derivatives of α_k are the second derivatives of s. β needs only by-products of the solver.

    Shapes: input [T, B, D]; h and c [B, H]; weights as in `nn.LSTM`; both results [T, B, H]. What
    is kept for the backward pass grows as T·B·(H + D).
    """

    CHUNK = 16  # steps whose derivatives are computed together: few operations, and little memory

    @staticmethod
    def forward(ctx, epsilon, input, h, c, weight_ih, weight_hh, bias_ih, bias_hh):
        T, B, D = input.shape
        H = h.shape[1]
        z_all = torch.addmm(bias_ih + bias_hh, input.reshape(T * B, D), weight_ih.T).view(T, B, -1)
        h_all, c_all, Gc_all, WGc_all = (input.new_empty(steps, B, size) for steps, size in
                                         ((T + 1, H), (T + 1, H), (T, D), (T, 3 * H)))
        h_all[0], c_all[0] = h, c
        solver = ConjugateGradients(weight_ih, epsilon, B)
        alpha = input.new_empty(B, 3, H)
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        weight_hh_T = weight_hh.T
        steps = zip(z_all, z_all[:, :, :2 * H], *z_all.chunk(4, 2), h_all, c_all, h_all[1:],
                    c_all[1:], Gc_all, WGc_all)
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
            solver.solve(alpha, solver.scale(alpha_g), s, out)
        ctx.solver = solver
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight_ih, weight_hh, z_all, h_all, c_all, Gc_all, WGc_all)
        return h_all[1:], c_all[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h_all, grad_c_all):
        input, weight_ih, weight_hh, gates_all, h_all, c_all, Gc_all, WGc_all = ctx.saved_tensors
        solver, CHUNK = ctx.solver, ProximalSequence.CHUNK
        T, B, D = input.shape
        gates_all, WGc_all = gates_all.unflatten(2, (4, -1)), WGc_all.unflatten(2, (3, -1))
        h_before, c_before, c_all = h_all[:-1], c_all[:-1], c_all[1:]
        grad_input = input.new_empty(T, B, D)
        grads_weights = [weight_ih.new_zeros(shape)
                         for shape in (weight_ih.shape, weight_hh.shape, len(weight_ih))]
        # What the loss contributes to the gradient of each state, from the initial one to the last.
        zero = torch.zeros_like(h_all[0])
        grads_h, grads_c = ([zero, *(T * [zero] if grad is None else grad)]
                            for grad in (grad_h_all, grad_c_all))
        grad_h, grad_c = grads_h.pop(), grads_c.pop()

        for start in reversed(range(0, T, CHUNK)):
            chunk = slice(start, start + CHUNK)
            c, Gc, WGc = c_all[chunk], Gc_all[chunk], WGc_all[chunk]
            cell = CellDerivatives.of(gates_all[chunk], c_before[chunk])
            scale = solver.scale(cell.alpha[:, :, 2])
            grad_gates, a, Ga = (torch.empty_like(x) for x in (gates_all[chunk], c, Gc))
            grad_z = grad_gates.flatten(2)
            steps = zip(grad_z, map(CellDerivatives._make, zip(*cell)), scale, c[:, :, None], WGc,
                        a, Ga, zip(grad_gates[:, :, :3], *grad_gates.unbind(2)))
            for grad_z_t, cell_t, *tensors in reversed(list(steps)):
                grad_s, beta_f = backward_step(solver, grad_h, grad_c, cell_t, *tensors)
                grad_c = torch.addcmul(grads_c.pop(), grad_s, cell_t.ds_dc)
                grad_c.addcmul_(cell_t.d2s_fc, beta_f, value=-1)
                grad_h = torch.addmm(grads_h.pop(), grad_z_t, weight_hh)
            torch.mm(grad_z.flatten(0, 1), weight_ih, out=grad_input[chunk].flatten(0, 1))
            add_weight_gradients(grads_weights, grad_z, input[chunk], h_before[chunk], cell,
                                 [(a, Gc), (c, Ga)], solver.root_epsilon)
        return None, grad_input, grad_h, grad_c, *grads_weights, grads_weights[-1]


class CellDerivatives(NamedTuple):
    """Derivatives of s = f c₋ + i g and h = o tanh(s), [T, B, ...] for a chunk of steps."""
    alpha: torch.Tensor   # ∂s/∂z_k, stacked over the gates k = i, f, g  [B, 3, H]
    d2s_kk: torch.Tensor  # ∂²s/∂z_k², likewise                          [B, 3, H]
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
        d2s_kk = torch.mul(gates[:, :, :3], alpha).mul_(-2)
        d2s_kk[:, :, :2] += alpha[:, :, :2]
        dh_ds = torch.addcmul(o, o * tanh_s, tanh_s, value=-1)
        return cls(alpha, d2s_kk, (1 - g * g) * slope_i, slope_f, f, dh_ds, tanh_s * (o - o * o))


def backward_step(solver, grad_h, grad_c, cell, scale, c, WGc, a, Ga, grad_z):
    """Write a step's a, Gᵀa and ∂L/∂z to `a`, `Ga` and `grad_z`; return ∂L/∂s and β_f, [B, H].

    c is [B, 1, H], WGc [B, 3, H], and grad_z five views: of the gates i, f, g, and of i, f, g, o.
    """
    solver.solve(cell.alpha, scale, grad_c, out=(a, Ga, solver.WGx))
    WGa = solver.WGx_gates
    beta = torch.mul(a[:, None], WGc).addcmul_(c, WGa)
    beta_i, beta_f, beta_g = beta.unbind(1)
    grad_s = torch.addcmul(a, grad_h, cell.dh_ds)
    grad_z_ifg, grad_z_i, _, grad_z_g, grad_z_o = grad_z
    torch.mul(cell.alpha, grad_s[:, None], out=grad_z_ifg).addcmul_(cell.d2s_kk, beta, value=-1)
    grad_z_i.addcmul_(cell.d2s_ig, beta_g, value=-1)
    grad_z_g.addcmul_(cell.d2s_ig, beta_i, value=-1)
    torch.mul(grad_h, cell.dh_do, out=grad_z_o)
    return grad_s, beta_f


def add_weight_gradients(grads, grad_z, input, h, cell, pairs, root_epsilon):
    """Add a chunk's gradients to `grads`, those of weight_ih, weight_hh and the bias.

    The second-order term adds −√ε Σ diag(α_k) (a Gcᵀ + c Gaᵀ), summed over steps and samples, to
    the rows of gate k of weight_ih; `pairs` are (a, Gc) and (c, Ga).
    """
    grad_weight_ih, grad_weight_hh, grad_bias = grads
    grad_z, input, h = (x.flatten(0, 1) for x in (grad_z, input, h))
    grad_weight_ih.addmm_(grad_z.T, input)
    for x, Gx in pairs:
        alpha_x = torch.mul(cell.alpha, x[:, :, None], out=cell.d2s_kk)  # d2s_kk has been used
        rows = alpha_x.flatten(2).flatten(0, 1).T
        grad_weight_ih[:len(rows)].addmm_(rows, Gx.flatten(0, 1), alpha=-root_epsilon)
    grad_weight_hh.addmm_(grad_z.T, h)
    grad_bias += grad_z.sum(0)


class ConjugateGradients:
    """Solve M x = b, M = I + G Gᵀ, for B systems at once, without forming G.

    Preconditioned conjugate gradients in the usual letters, with the residual r = M x − b. Systems
    share their step lengths, each with its right-hand side scaled to maximum norm 1, so that an
    iteration is two matrix products and a few operations on [B, H]. It stops at a relative residual
    (root mean square over the systems) of `TOLERANCE`, which `extrapolate` improves on. A system
    too ill-conditioned for that gives a RuntimeWarning.

    The preconditioner is E Q E. The gate g makes most of G, so E = diag(1 + α_g² ‖W_g‖²)^−½, with
    the norms of W_g's rows, nearly scales M to a unit diagonal. Q is the inverse of what M is then
    for a typical α_g of ½, the same for all systems and steps, and I from `DENSE` units up, where
    products with Q cost more than the iterations they save.
    """

    TOLERANCE = {torch.float32: 5e-4, torch.float64: 1e-12}
    MAX_ITERATIONS = 1000
    TRUSTED_ITERATIONS = 50
    DENSE = 128

    def __init__(self, weight_ih, epsilon, batch):
        H, D = len(weight_ih) // 4, weight_ih.shape[1]
        self.root_epsilon = math.sqrt(epsilon)
        self.tolerance = self.TOLERANCE[weight_ih.dtype]
        self.tiny = torch.finfo(weight_ih.dtype).tiny
        self.iterations = 0  # of the last solve()
        self.W = self.root_epsilon * weight_ih[:3 * H]
        self.W_T = self.W.T
        W_g = self.W[2 * H:]
        self.Wg2 = torch.linalg.vector_norm(W_g, dim=1).square()
        self.one = W_g.new_ones(())
        self.Q = None
        if H < self.DENSE:
            self.W_T = self.W_T.contiguous()
            E = self.scale(self.one / 2)
            EW_g = E[:, None] * W_g
            # The 1e-3 on the unit diagonal keeps Q positive definite in float32 for any epsilon.
            scaled_M = torch.diag(E * E + 1e-3).addmm_(EW_g, EW_g.T, alpha=1 / 4)
            self.Q = torch.linalg.inv_ex(scaled_M).inverse  # a diverged model gives NaN, no error

        # A vector and its products lie side by side, so that one operation advances all: M p, p,
        # Gᵀp, W Gᵀp for the direction p, and M x − b, x, Gᵀx, W Gᵀx for the solution x.
        shapes = (batch, H), (batch, H), (batch, D), (batch, 3 * H)
        sizes = [math.prod(shape) for shape in shapes]
        self.direction, self.solution = weight_ih.new_empty(2, sum(sizes))
        (self.Mp, self.p, self.Gp, self.WGp), (self.r, self.x, self.Gx, self.WGx) = (
            [x.view(shape) for x, shape in zip(buffer.split(sizes), shapes)]
            for buffer in (self.direction, self.solution))
        self.z, self.scaled, self.alpha_p = (
            weight_ih.new_empty(batch, *shape) for shape in ((H,), (H,), (3, H)))
        # The same memory in the shapes that the operations need.
        self.Mp_flat, self.p_flat, self.r_flat, self.z_flat = (
            x.view(-1) for x in (self.Mp, self.p, self.r, self.z))
        self.p_row, self.alpha_p_flat = self.p[:, None], self.alpha_p.flatten(1)
        self.WGp_gates, self.WGx_gates = self.WGp.chunk(3, 1), self.WGx.unflatten(1, (3, H))

    def scale(self, alpha_g):
        """Return the diagonal of E for alpha_g [..., H]."""
        return torch.addcmul(self.one, alpha_g * alpha_g, self.Wg2).rsqrt_()

    def precondition(self, r, scale, out):
        """Write E Q E r to `out`."""
        torch.mul(r, scale, out=self.scaled)
        if self.Q is None:
            return torch.mul(self.scaled, scale, out=out)
        return torch.mm(self.scaled, self.Q, out=out).mul_(scale)

    def solve(self, alpha, scale, b, out):
        """Write x [B, H], Gᵀx [B, D] and W Gᵀx [B, 3H] to `out`, for alpha [B, 3, H], b [B, H]."""
        norm = b.abs().amax(1, keepdim=True).clamp_min_(self.tiny)
        self.solution.zero_()
        torch.div(b, -norm, out=self.r)
        self.precondition(self.r, scale, out=self.p)
        rz = torch.dot(self.r_flat, self.p_flat).item()
        if not math.isfinite(rz):
            alpha, scale = self.exclude_nonfinite(alpha, scale, norm)
            rz = torch.dot(self.r_flat, self.p_flat).item()
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        WGp_i, WGp_f, WGp_g = self.WGp_gates
        goal = rz * self.tolerance ** 2
        step, iterations = 0.0, 0
        while rz > goal and iterations < self.MAX_ITERATIONS:
            torch.mul(alpha, self.p_row, out=self.alpha_p)
            torch.mm(self.alpha_p_flat, self.W, out=self.Gp)
            torch.mm(self.Gp, self.W_T, out=self.WGp)
            torch.addcmul(self.p, alpha_i, WGp_i, out=self.Mp)
            self.Mp.addcmul_(alpha_f, WGp_f).addcmul_(alpha_g, WGp_g)
            curvature = torch.dot(self.p_flat, self.Mp_flat).item()
            if not curvature > 0:
                break
            step = rz / curvature
            self.solution.sub_(self.direction, alpha=step)
            self.precondition(self.r, scale, out=self.z)
            rz, previous = torch.dot(self.r_flat, self.z_flat).item(), rz
            torch.add(self.z, self.p, alpha=rz / previous, out=self.p)
            iterations += 1
        self.iterations = iterations
        if iterations <= self.TRUSTED_ITERATIONS and 0 <= rz <= goal:
            self.extrapolate(step)
        else:
            self.warn_if_unsolved(alpha, b / norm)
        for value, result in zip((self.x, self.Gx, self.WGx), out):
            torch.mul(value, norm, out=result)

    def exclude_nonfinite(self, alpha, scale, norm):
        """Exclude systems with NaN or infinity: their x becomes NaN, and the others are solved."""
        nonfinite = ~self.p.isfinite().all(dim=1, keepdim=True)
        norm.masked_fill_(nonfinite, math.nan)
        self.r.masked_fill_(nonfinite, 0)
        self.p.masked_fill_(nonfinite, 0)
        return alpha.masked_fill(nonfinite[:, None], 0), scale.masked_fill(nonfinite, 1)

    def extrapolate(self, step):
        """Advance x by the next step, assumed as long as the last one; Gx and WGx stay behind."""
        self.x.sub_(self.p, alpha=step)

    def warn_if_unsolved(self, alpha, b):
        """Warn if M x ≠ b: over many iterations the recursive residual departs from the true."""
        WGx = (alpha * self.x[:, None]).flatten(1) @ self.W @ self.W_T
        Mx = self.x + (alpha * WGx.view_as(alpha)).sum(1)
        relative = (b - Mx).norm() / b.norm()
        if not relative < 10 * self.tolerance:
            warnings.warn(f'ProxLSTM: a proximal step was solved only to a relative residual of '
                          f'{relative:.1e}, expected {self.tolerance:.0e}; use a smaller epsilon '
                          f'or float64', RuntimeWarning, stacklevel=2)
