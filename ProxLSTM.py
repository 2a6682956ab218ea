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
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence


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

    Raises ValueError for a negative or non-finite epsilon, and torch.linalg.LinAlgError where the matrix is not
    positive definite: for NaN in the input, or where ε G Gᵀ exhausts the precision.
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


class ConjugateGradients:
    """Solve (I + ε G Gᵀ) x = b for B systems at once, whose G = Σ_x diag(α_x) W_x is never formed.

    x runs over the LSTM's gates i, f and g, and W_x [H, D] are their rows of `weight_ih`. The systems share their step
    lengths, each with its right-hand side scaled to maximum norm 1, so that an iteration is two matrix products and a few
    operations on [B, H]. It stops at a relative residual (root mean square over the systems) of `TOLERANCE`, which the
    closing step improves on. A system too ill-conditioned to be solved that well gives a RuntimeWarning.

    The preconditioner is E Q E. In an LSTM the gate g makes most of G, so E = diag(1 + ε α_g² ‖W_g‖²)^−½ is nearly what
    scales M to a unit diagonal, and Q the inverse of what M is then for a typical α_g of ½: the same for all systems
    and steps. From `DENSE` units up, where products with Q cost more than the iterations they save, Q = I.
    """

    TOLERANCE = {torch.float32: 5e-4, torch.float64: 1e-12}
    MAX_ITERATIONS = 1000
    TRUSTED_ITERATIONS = 50
    DENSE = 128

    def __init__(self, weight_ih, epsilon, batch):
        H, D = len(weight_ih) // 4, weight_ih.shape[1]
        self.root_epsilon = math.sqrt(epsilon)
        self.W = self.root_epsilon * weight_ih[:3 * H]
        self.W_T = self.W.T
        W_g = self.W[2 * H:]
        self.Wg2 = torch.linalg.vector_norm(W_g, dim=1).square()
        self.one = W_g.new_ones(())
        self.iterations = 0  # that the last solve() took
        self.Q = None
        if H < self.DENSE:
            self.W_T = self.W_T.contiguous()
            typical = (self.one + self.Wg2 / 4).rsqrt_()
            # What is added to the unit diagonal keeps the inverse positive definite in float32, whatever epsilon is.
            scaled = torch.diag(typical * typical + 1e-3).addmm_(typical[:, None] * W_g, (typical[:, None] * W_g).T,
                                                                 alpha=1 / 4)
            self.Q = torch.linalg.inv_ex(scaled).inverse  # unchecked: a diverged model gives NaN, no error
        self.tolerance = self.TOLERANCE[weight_ih.dtype]
        self.tiny = torch.finfo(weight_ih.dtype).tiny
        # M p, p, √ε Gᵀp and ε W Gᵀp lie side by side, and so do r, −x, −y and −w, from which the same multiple of each is
        # subtracted in every iteration: one operation advances all.
        shapes = (batch, H), (batch, H), (batch, D), (batch, 3 * H)
        sizes = [rows * columns for rows, columns in shapes]
        self.direction, self.solution = weight_ih.new_empty(2, sum(sizes))
        (self.Mp_flat, self.p_flat, *_), (self.r_flat, *_) = self.direction.split(sizes), self.solution.split(sizes)
        self.Mp, self.p, self.y, self.w = (x.view(shape) for x, shape in zip(self.direction.split(sizes), shapes))
        self.r, *self.minus_xyw = (x.view(shape) for x, shape in zip(self.solution.split(sizes), shapes))
        self.z, self.u = weight_ih.new_empty(batch, H), weight_ih.new_empty(batch, 3, H)
        self.z_flat, self.u_flat, self.p_row = self.z.view(-1), self.u.flatten(1), self.p[:, None]
        self.w_gates = self.w.chunk(3, 1)

    def scale(self, alpha_g):
        """The diagonal of E for alpha_g [..., H]."""
        return torch.addcmul(self.one, alpha_g * alpha_g, self.Wg2).rsqrt_()

    def precondition(self, r, scale, out):
        """Write E Q E r to `out`."""
        scaled = r * scale
        if self.Q is None:
            return torch.mul(scaled, scale, out=out)
        return torch.mm(scaled, self.Q, out=out).mul_(scale)

    def solve(self, alpha, scale, b, out):
        """Write x [B, H], √ε Gᵀx [B, D] and ε W Gᵀx [B, 3H] to `out`, for alpha [B, 3, H], its scale(), b [B, H]."""
        Mp, p, y, w, r, u, z, p_row = self.Mp, self.p, self.y, self.w, self.r, self.u, self.z, self.p_row

        norm = b.abs().amax(1, keepdim=True).clamp_min_(self.tiny)
        self.solution.zero_()
        torch.div(b, norm, out=r)
        self.precondition(r, scale, out=p)
        rz = torch.dot(self.r_flat, self.p_flat).item()
        if not math.isfinite(rz):  # one sample's NaN must not keep the others from being solved; its own stays NaN
            spoiled = ~p.isfinite().all(dim=1, keepdim=True)
            alpha = alpha.masked_fill(spoiled[:, None], 0)
            norm.masked_fill_(spoiled, math.nan)
            r.masked_fill_(spoiled, 0)
            p.masked_fill_(spoiled, 0)
            scale = scale.masked_fill(spoiled, 1)
            rz = torch.dot(self.r_flat, self.p_flat).item()
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        w_i, w_f, w_g = self.w_gates
        goal = rz * self.tolerance ** 2
        step, iterations = 0.0, 0
        while rz > goal and iterations < self.MAX_ITERATIONS:
            torch.mul(alpha, p_row, out=u)
            torch.mm(self.u_flat, self.W, out=y)
            torch.mm(y, self.W_T, out=w)
            torch.addcmul(p, alpha_i, w_i, out=Mp).addcmul_(alpha_f, w_f).addcmul_(alpha_g, w_g)
            curvature = torch.dot(self.p_flat, self.Mp_flat).item()
            if not curvature > 0:
                break
            step = rz / curvature
            self.solution.sub_(self.direction, alpha=step)
            self.precondition(r, scale, out=z)
            rz, previous = torch.dot(self.r_flat, self.z_flat).item(), rz
            torch.add(z, p, alpha=rz / previous, out=p)
            iterations += 1
        self.iterations = iterations
        if iterations <= self.TRUSTED_ITERATIONS and 0 <= rz <= goal:
            # One more step of x, of the last length, is nearly the next one and needs no product. (y and w stay behind.)
            self.minus_xyw[0].sub_(p, alpha=step)
        else:
            self.verify(alpha, b / norm)
        minus_norm = norm.neg_()
        for value, result in zip(self.minus_xyw, out):
            torch.mul(value, minus_norm, out=result)

    def verify(self, alpha, b):
        """Warn if x fails its equation: over many iterations the recursive residual departs from the true one."""
        x = -self.minus_xyw[0]
        w = (alpha * x[:, None]).flatten(1) @ self.W @ self.W_T
        relative = (b - x - (alpha * w.view_as(alpha)).sum(1)).norm() / b.norm()
        if not relative < 10 * self.tolerance:
            warnings.warn(f'ProxLSTM: a proximal step was solved only to a relative residual of {relative:.1e}, '
                          f'expected {self.tolerance:.0e}; use a smaller epsilon or float64', RuntimeWarning, stacklevel=2)


class ProximalSequence(torch.autograd.Function):
    """All steps of `ProximalStep` at once, for the LSTM's own G: (input, h, c) → every step's h and c.

    With the gates i, f, o = σ(z_i), σ(z_f), σ(z_o) and g = tanh(z_g), whose z are affine in v, s = f c₋ + i g and

        α_i = ∂s/∂z_i = g i(1−i),     α_f = ∂s/∂z_f = c₋ f(1−f),     α_g = ∂s/∂z_g = i(1−g²),     G = Σ_x diag(α_x) W_x.

    The derivative of the second-order term −ε ⟨Gᵀa, Gᵀc⟩ with respect to α_x is −β_x, β_x = ε (a W_x Gᵀc + c W_x Gᵀa),
    and the derivatives of α_x are the second derivatives of s. The solver's by-products are all that β needs.

    Shapes: input [T, B, D]; h and c [B, H]; weights as in `nn.LSTM`; both results [T, B, H]. What is kept for the
    backward pass grows as T·B·(H + D).
    """

    CHUNK = 16  # steps whose coefficients the backward pass prepares together: few operations, and little memory

    @staticmethod
    def forward(ctx, epsilon, input, h, c, weight_ih, weight_hh, bias_ih, bias_hh):
        T, B, D = input.shape
        H = h.shape[1]
        gates_all = torch.addmm(bias_ih + bias_hh, input.reshape(T * B, D), weight_ih.T).view(T, B, 4 * H)
        h_all, c_all, y_all, w_all = (input.new_empty(steps, B, n) for steps, n in
                                      ((T + 1, H), (T + 1, H), (T, D), (T, 3 * H)))
        h_all[0], c_all[0] = h, c
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight_ih, weight_hh, gates_all, h_all, c_all, y_all, w_all)

        ctx.solver = solver = ConjugateGradients(weight_ih, epsilon, B)
        alpha = input.new_empty(B, 3, H)
        alpha_i, alpha_f, alpha_g = alpha.unbind(1)
        weight_hh_T = weight_hh.T
        for z, z_if, i, f, g, o, h, h_next, c, *out in by_step(gates_all, gates_all[:, :, :2 * H],
                                                               *gates_all.chunk(4, 2), h_all[:-1], h_all[1:],
                                                               c_all[:-1], c_all[1:], y_all, w_all):
            z.addmm_(h, weight_hh_T)
            z_if.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            ig = i * g
            s = torch.addcmul(ig, f, c)
            torch.mul(o, s.tanh(), out=h_next)
            sigmoid_i, sigmoid_f = torch.addcmul(z_if, z_if, z_if, value=-1).chunk(2, 1)  # σ' = σ − σ²
            torch.mul(g, sigmoid_i, out=alpha_i)
            torch.mul(c, sigmoid_f, out=alpha_f)
            torch.addcmul(i, ig, g, value=-1, out=alpha_g)
            solver.solve(alpha, solver.scale(alpha_g), s, out)
        return h_all[1:], c_all[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_h_all, grad_c_all):
        input, weight_ih, weight_hh, gates_all, h_all, c_all, y_all, w_all = ctx.saved_tensors
        solver = ctx.solver
        T, B, D = input.shape
        H = h_all.shape[2]
        Wp = torch.empty_like(w_all[0])
        grad_input, grad_weight_ih, grad_weight_hh = (input.new_empty(T, B, D), torch.zeros_like(weight_ih),
                                                      torch.zeros_like(weight_hh))
        grad_bias = weight_ih.new_zeros(4 * H)
        zero = torch.zeros_like(h_all[0])
        grads_h, grads_c = ([zero] + (T * [zero] if x is None else list(x.unbind(0))) for x in (grad_h_all, grad_c_all))
        grad_h, grad_c = grads_h.pop(), grads_c.pop()

        for start in reversed(range(0, T, ProximalSequence.CHUNK)):
            chunk = slice(start, min(start + ProximalSequence.CHUNK, T))
            c_previous, c, y, w = c_all[chunk], c_all[1:][chunk], y_all[chunk], w_all[chunk].unflatten(2, (3, H))
            ifg = gates_all[chunk][:, :, :3 * H].unflatten(2, (3, H))
            i, f, g, o = gates_all[chunk].chunk(4, 2)
            ig = i * g
            tanh_s = torch.addcmul(ig, f, c_previous).tanh_()
            dh_ds, dh_dzo = torch.addcmul(o, o * tanh_s, tanh_s, value=-1), tanh_s * (o - o * o)
            d2s_fc, sigmoid_i = f - f * f, i - i * i                        # ∂²s/∂z_f∂c₋ = σ'(z_f)
            alpha = torch.stack([g * sigmoid_i, c_previous * d2s_fc, i - ig * g], 2)
            d2s_ig = (1 - g * g) * sigmoid_i                                # ∂²s/∂z_i∂z_g
            d2s_ii = torch.mul(ifg, alpha).mul_(-2)                         # ∂²s/∂z_x², x = i, f, g
            d2s_ii[:, :, :2] += alpha[:, :, :2]
            grad_z, a, p = torch.empty_like(gates_all[chunk]), torch.empty_like(c), torch.empty_like(y)

            steps = by_step(alpha, solver.scale(alpha[:, :, 2]), c[:, :, None], w, f, dh_ds, dh_dzo, d2s_ii, d2s_ig,
                            d2s_fc, grad_z, grad_z[:, :, :3 * H].unflatten(2, (3, H)), *grad_z.chunk(4, 2), a, p)
            for (alpha_t, scale, c_t, w_t, f_t, dh_ds_t, dh_dzo_t, d2s_ii_t, d2s_ig_t, d2s_fc_t,
                 grad_z_t, grad_z_ifg, grad_z_i, _, grad_z_g, grad_z_o, a_t, p_t) in reversed(steps):
                solver.solve(alpha_t, scale, grad_c, out=(a_t, p_t, Wp))
                beta = torch.mul(a_t[:, None], w_t).addcmul_(c_t, Wp.view_as(w_t))
                beta_i, beta_f, beta_g = beta.unbind(1)
                grad_s = torch.addcmul(a_t, grad_h, dh_ds_t)
                torch.mul(alpha_t, grad_s[:, None], out=grad_z_ifg).addcmul_(d2s_ii_t, beta, value=-1)
                grad_z_i.addcmul_(d2s_ig_t, beta_g, value=-1)
                grad_z_g.addcmul_(d2s_ig_t, beta_i, value=-1)
                torch.mul(grad_h, dh_dzo_t, out=grad_z_o)
                grad_c = torch.addcmul(grads_c.pop(), grad_s, f_t).addcmul_(d2s_fc_t, beta_f, value=-1)
                grad_h = torch.addmm(grads_h.pop(), grad_z_t, weight_hh)

            grad_z = grad_z.flatten(0, 1)
            torch.mm(grad_z, weight_ih, out=grad_input[chunk].flatten(0, 1))
            grad_weight_ih.addmm_(grad_z.T, input[chunk].flatten(0, 1))
            for x, q in (a, y), (c, p):
                alpha_x = torch.mul(alpha, x[:, :, None], out=d2s_ii).flatten(2).flatten(0, 1)  # d2s_ii has served
                grad_weight_ih[:3 * H].addmm_(alpha_x.T, q.flatten(0, 1), alpha=-solver.root_epsilon)
            grad_weight_hh.addmm_(grad_z.T, h_all[chunk].flatten(0, 1))
            grad_bias += grad_z.sum(0)
        return None, grad_input, grad_h, grad_c, grad_weight_ih, grad_weight_hh, grad_bias, grad_bias


def by_step(*tensors):
    """A list over the first dimension, of tuples of what the tensors hold there."""
    return list(zip(*(x.unbind(0) for x in tensors)))


class ProxLSTM(nn.LSTM):
    """One-layer `nn.LSTM` with the proximal map on every step's cell state: `ProxLSTMCell` over a sequence, fast.

    `(input, (h_0, c_0)=None, epsilon=None) -> output, (h_n, c_n)`, all shaped as by `nn.LSTM`: input [T, B, D],
    [B, T, D] with `batch_first`, [T, D] without a batch, or a `PackedSequence`; output likewise, with H features;
    states [1, B, H] or [1, H], zero where `hx` is absent. float32 or float64. `c_n` is the proximal state of each
    sequence's last step, from which a caller can go on. `epsilon`, a number or 0-d tensor, takes the place of the
    layer's own in one call; 0 is exactly `nn.LSTM`. The parameters keep their names, so state dicts are exchangeable
    with `nn.LSTM`. Gradients can be taken once: a second differentiation raises RuntimeError.

    The linear systems are solved iteratively: in float64 nearly to round-off, in float32 so that gradients have a
    relative error of 1e-5 to 1e-4 for ε up to 2, a few times that for ε of 5 to 30 (and within that a sample's result
    depends on its batch).

    Raises ValueError for a negative or non-finite epsilon and for options of `nn.LSTM` that are not supported (several
    layers, no bias, dropout, bidirectional, projections); ValueError or RuntimeError for input of a wrong shape or type.
    """

    def __init__(self, input_size, hidden_size, num_layers=1, *, epsilon=1.0, batch_first=False, device=None,
                 dtype=None, **others):
        supported = {'num_layers': 1, 'bias': True, 'dropout': 0.0, 'bidirectional': False, 'proj_size': 0}
        for name, value in {'num_layers': num_layers, **others}.items():
            if name not in supported:
                raise TypeError(f'ProxLSTM has no option {name!r}')
            if value != supported[name]:
                raise ValueError(f'ProxLSTM does not support {name}={value!r}, expected {supported[name]!r}')
        super().__init__(input_size, hidden_size, batch_first=batch_first, device=device, dtype=dtype)
        self.epsilon = check_epsilon(epsilon)

    def forward(self, input, hx=None, epsilon=None):
        epsilon = check_epsilon(self.epsilon if epsilon is None else epsilon)
        if epsilon == 0:
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            return self.forward_packed(input, hx, epsilon)
        if input.dim() not in (2, 3):
            raise ValueError(f'input has {input.dim()} dimensions, expected 2 (unbatched) or 3')
        batched = input.dim() == 3
        if not batched:
            input = input[:, None]
        elif self.batch_first:
            input = input.transpose(0, 1)
        output, c = self.all_steps(input, hx if batched or hx is None else [x[:, None] for x in hx], epsilon)
        h_n, c_n = output[-1:], c[-1:]
        if not batched:
            return output[:, 0], (h_n[:, 0], c_n[:, 0])
        return output.transpose(0, 1) if self.batch_first else output, (h_n, c_n)

    def forward_packed(self, input, hx, epsilon):
        """Run padded, then take each sequence's own last state: what follows it has no influence on it."""
        padded, lengths = pad_packed_sequence(input)
        output, c = self.all_steps(padded, hx, epsilon)
        packed = pack_padded_sequence(output, lengths, enforce_sorted=input.sorted_indices is None)
        last = lengths - 1, torch.arange(len(lengths))
        return packed, (output[last][None], c[last][None])

    def all_steps(self, input, hx, epsilon):
        """Every step's h and c, [T, B, H], for input [T, B, D]."""
        T, B, _ = input.shape
        if T == 0:
            raise ValueError('input has no steps, expected at least one')
        if input.dtype not in ConjugateGradients.TOLERANCE:
            raise ValueError(f'input is {input.dtype}, expected float32 or float64')
        if hx is None:
            hx = 2 * (input.new_zeros(1, B, self.hidden_size),)
        self.check_input(input, None)
        for name, state in zip(('h_0', 'c_0'), hx):
            self.check_hidden_size(state, (1, B, self.hidden_size), f'{name} has shape {{1}}, expected {{0}}')
            if (state.dtype, state.device) != (input.dtype, input.device):
                raise ValueError(f'{name} is {state.dtype} on {state.device}, expected {input.dtype} on {input.device} '
                                 f'as the input')
        h, c = (state[0] for state in hx)
        padding = 0, 0, 0, -B % 4  # matrix products of a multiple of four rows take up to a fifth less time
        output, c = ProximalSequence.apply(epsilon, F.pad(input, padding), F.pad(h, padding), F.pad(c, padding),
                                           self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0)
        return output[:, :B].contiguous(), c[:, :B].contiguous()

    def extra_repr(self):
        return f'{super().extra_repr()}, epsilon={self.epsilon}'


def check_epsilon(epsilon):
    """`epsilon`, a number or 0-d tensor, as a float; ValueError unless it is finite and not negative."""
    if torch.is_tensor(epsilon) and epsilon.requires_grad:
        raise ValueError('epsilon requires a gradient, but no gradient with respect to it is computed')
    try:
        value = float(epsilon)
    except (TypeError, ValueError, RuntimeError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f'epsilon is {epsilon}, expected a finite number that is not negative')
    return value
