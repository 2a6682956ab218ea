"""AMP, adversarial model perturbation: train for the worst loss in a small ball around the weights.

    optimizer = AMP(model.parameters(), lr=1e-3, epsilon=0.5, inner_lr=1.0,
                    base_optimizer=torch.optim.Adam, model=model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    loss = optimizer.step(closure)

Zheng, Zhang and Mao, Regularizing neural networks via adversarial model perturbation,
arXiv:2010.04925. This file imports torch only.
"""

import math

import torch
from torch import nn


class AMP(torch.optim.Optimizer):
    """Minimize max ℓ(θ + Δ) over ‖Δ‖₂ ≤ ε with a torch optimizer (Algorithm 1 of the paper).

    A step searches for Δ by `inner_iter` (N) steps of gradient ascent from Δ = 0,
    Δ ← Δ + ζ ∇ℓ(θ + Δ), each projected onto the ball, computes the gradient at θ + Δ and lets the
    base optimizer update θ with it. The closure is called N + 1 times, for N + 1 gradients of the
    same minibatch; dropout in it draws a new mask each time.

    Args:
        params: parameters or parameter groups. A group can set any option of the base optimizer,
            but not the four settings below.
        lr: η, the learning rate of the base optimizer.
        epsilon: ε ≥ 0, the radius. With 0, every step is the base optimizer's own.
        inner_lr: ζ > 0. math.inf (or 'inf') moves each ascent step to the sphere, to
            Δ = ε ∇ℓ / ‖∇ℓ‖₂; with one iteration that is sharpness-aware minimization, SAM
            (Foret et al., arXiv:2010.01412).
        inner_iter: N ≥ 1.
        base_optimizer: a class such as torch.optim.Adam whose step needs no closure (LBFGS does);
            further keyword arguments (`weight_decay`, …) are passed to it.
        per_tensor: use a ball of radius ε for each parameter tensor, as in the authors' code,
            instead of one for all together, as in their Algorithm 1. With n tensors, Δ can then be
            √n times as long, and its direction is not the gradient's.
        model: a module whose batch-normalization statistics are then updated by the passes at θ
            only, once per step.

    Raises ValueError for values out of these ranges, for a group that sets one of the four
    settings, and in `step` without a closure.
    """

    def __init__(self, params, lr, epsilon=0.5, inner_lr=1.0, inner_iter=1,
                 base_optimizer=torch.optim.SGD, *, per_tensor=False, model=None, **base_arguments):
        if not 0 <= epsilon < math.inf:
            raise ValueError(f'epsilon is {epsilon}, expected a finite number of at least 0')
        inner_lr = float(inner_lr)
        if not inner_lr > 0:
            raise ValueError(f'inner_lr is {inner_lr}, expected a number above 0')
        if inner_iter < 1 or inner_iter != int(inner_iter):
            raise ValueError(f'inner_iter is {inner_iter}, expected an integer of at least 1')
        self.base_optimizer = base_optimizer(params, lr=lr, **base_arguments)
        self.settings = {'epsilon': epsilon, 'inner_lr': inner_lr, 'inner_iter': int(inner_iter),
                         'per_tensor': per_tensor}
        self.batch_norms = [m for m in model.modules()
                            if isinstance(m, nn.modules.batchnorm._BatchNorm)] if model else []
        super().__init__(self.base_optimizer.param_groups, self.base_optimizer.defaults)
        self._share_state()

    def _share_state(self):
        # Both have the same state and groups, so that a scheduler of this one reaches the base.
        self.state = self.base_optimizer.state
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        """Take one step on the minibatch of `closure` and return the loss at θ.

        The closure zeroes the gradients, computes the loss, calls backward and returns the loss.
        The weights are θ again, bit for bit, before the base optimizer's step, and also if the
        closure raises.
        """
        if closure is None:
            raise ValueError('AMP needs a closure that computes the loss and its gradients: '
                             'optimizer.step(closure)')
        closure = torch.enable_grad()(closure)
        loss = closure()
        if self.settings['epsilon'] > 0:
            weights = [p for group in self.param_groups for p in group['params']
                       if p.grad is not None]
            theta = [p.clone() for p in weights]
            delta = [torch.zeros_like(p) for p in weights]
            tracking = [m for m in self.batch_norms if m.track_running_stats]
            try:
                for m in tracking:
                    m.track_running_stats = False  # still normalize by the batch, record nothing
                for _ in range(self.settings['inner_iter']):
                    delta = self._ascend(delta, [torch.zeros_like(p) if p.grad is None else p.grad
                                                 for p in weights])
                    for p, t, d in zip(weights, theta, delta):
                        p.copy_(t + d)
                    closure()
            finally:
                for m in tracking:
                    m.track_running_stats = True
                for p, t in zip(weights, theta):
                    p.copy_(t)  # θ + Δ − Δ would not be θ
        self.base_optimizer.step()
        return loss

    def _ascend(self, delta, gradients):
        """Return Δ + ζ g, projected onto the ball; for ζ = ∞, onto the sphere."""
        epsilon, zeta = self.settings['epsilon'], self.settings['inner_lr']
        to_sphere = zeta == math.inf
        delta = gradients if to_sphere else [d + zeta * g for d, g in zip(delta, gradients)]
        if self.settings['per_tensor']:
            return [project([d], epsilon, to_sphere)[0] for d in delta]
        return project(delta, epsilon, to_sphere)

    def add_param_group(self, group):
        if own := self.settings.keys() & group.keys():
            raise ValueError(f'{", ".join(sorted(own))}: not an option of a parameter group, '
                             'the same value holds for all groups')
        super().add_param_group(group)

    def __getstate__(self):  # for copy and pickle; Optimizer's own leaves out the base optimizer
        return self.__dict__

    def state_dict(self):
        """Return the base optimizer's, with AMP's own settings under the key 'amp'."""
        return {**self.base_optimizer.state_dict(), 'amp': dict(self.settings)}

    def load_state_dict(self, state_dict):
        """Load what `state_dict` returned; ValueError if it is another optimizer's."""
        if 'amp' not in state_dict:
            raise ValueError("expected the state of an AMP optimizer, with a key 'amp'")
        self.base_optimizer.load_state_dict(state_dict)
        self.settings = dict(state_dict['amp'])
        self._share_state()


def project(delta, radius, to_sphere=False):
    """Scale the tensors `delta` to a common L2 norm of at most `radius`, or exactly it `to_sphere`.

    A `delta` of zeros is returned as it is.
    """
    peak = max((d.abs().max().item() for d in delta if d.numel()), default=0)
    if peak == 0:
        return delta
    # Squares of very large or small entries would leave float32's range, so divide by the peak.
    scaled = [d / peak for d in delta]
    norm = math.hypot(*(d.norm().item() for d in scaled))
    return [d * (radius / norm) for d in scaled] if to_sphere or peak * norm > radius else delta
