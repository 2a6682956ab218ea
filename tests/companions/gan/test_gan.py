"""Networks, losses and steps of the GAN are those of the assignment; training is reproducible."""

import copy
import math

import pytest
import torch

from companions.gan import gan


def networks(seed=0, pixels=9):
    torch.manual_seed(seed)
    return gan.discriminator(pixels, 8), gan.generator(pixels, 4, 16)


def adam(model):
    return torch.optim.Adam(model.parameters(), 1e-2, betas=(0.5, 0.999))


def copy_of(model):
    return [p.detach().clone() for p in model.parameters()]


def unchanged(model, before):
    return [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]


# --------------------------------------------------------------------------- networks and noise

def test_the_networks_have_the_layers_and_the_parameters_of_the_assignment():
    def count(model):
        return sum(p.numel() for p in model.parameters())

    D, G = gan.discriminator(), gan.generator(noise_size=4)
    assert (count(D), count(G)) == (267_009, 1_858_320)
    assert count(gan.discriminator(64)) == 267_009 - 720 * 256
    assert count(gan.generator(64, 4)) == 1_858_320 - 720 * 1025
    assert [type(m).__name__ for m in D] == ['Linear', 'LeakyReLU', 'Linear', 'LeakyReLU', 'Linear']
    assert [type(m).__name__ for m in G] == ['Linear', 'ReLU', 'Linear', 'ReLU', 'Linear', 'Tanh']
    assert D[1].negative_slope == D[3].negative_slope == 0.01
    assert gan.generator()[0].in_features == 96


def test_shapes_and_ranges():
    D, G = gan.discriminator(), gan.generator()
    z = gan.uniform_noise(50, 96, torch.Generator().manual_seed(0))
    x = G(100 * z)
    assert x.shape == (50, 784) and D(x).shape == (50, 1)
    assert -1 <= x.min() < -0.9 and 0.9 < x.max() <= 1
    with torch.no_grad():
        D[-1].bias += 30
    assert D(x).min() > 1  # a logit, not a probability


def test_noise_is_uniform_and_drawn_from_its_own_generator():
    state = torch.get_rng_state()
    z = gan.uniform_noise(5000, 4, torch.Generator().manual_seed(3))
    assert z.shape == (5000, 4) and z.dtype == torch.float32
    assert -1 <= z.min() < -0.99 and 0.99 < z.max() <= 1
    assert z.mean().item() == pytest.approx(0, abs=0.02)
    assert z.var().item() == pytest.approx(1 / 3, abs=0.01)
    assert torch.equal(z, gan.uniform_noise(5000, 4, torch.Generator().manual_seed(3)))
    assert torch.equal(state, torch.get_rng_state())


# --------------------------------------------------------------------------------------- losses

def test_losses_by_hand():
    real, fake = torch.tensor([[2.0], [-1.0], [0.5]]), torch.tensor([[0.0], [-3.0], [1.5]])
    D_real, D_fake = ([1 / (1 + math.exp(-s)) for s in logits.flatten().tolist()]
                      for logits in (real, fake))

    def mean_log(values):
        return sum(map(math.log, values)) / 3

    saturating = mean_log(1 - p for p in D_fake)
    assert gan.discriminator_loss(real, fake).item() == pytest.approx(
        -mean_log(D_real) - saturating, rel=1e-5)
    assert gan.generator_loss(fake).item() == pytest.approx(-mean_log(D_fake), rel=1e-5)
    assert gan.generator_loss(fake, 'minimax').item() == pytest.approx(saturating, rel=1e-5)


def test_losses_and_gradients_at_extreme_logits():
    """At ±200 a float32 sigmoid is 0 or 1, and its logarithm may be infinite."""
    high, low = torch.full((4, 1), 200.0), torch.full((4, 1), -200.0)
    assert gan.discriminator_loss(high, low).item() == 0
    assert gan.discriminator_loss(low, high).item() == 400
    for kind, logit, value, slope in (
            ('non-saturating', 200, 0, 0), ('non-saturating', -200, 200, -1),
            ('minimax', 200, -200, -1), ('minimax', -200, 0, 0)):
        logits = torch.full((4, 1), float(logit), requires_grad=True)
        loss = gan.generator_loss(logits, kind)
        loss.backward()
        assert loss.item() == pytest.approx(value)
        assert logits.grad.sum().item() == pytest.approx(slope)


# ---------------------------------------------------------------------------------------- steps

def test_a_step_of_the_discriminator_lowers_its_loss_and_leaves_the_generator_alone():
    D, G = networks()
    optimizer, before, own = adam(D), copy_of(G), copy_of(D)
    z, x = torch.rand(16, 4), 0.8 + torch.zeros(16, 9)
    with torch.no_grad():
        real, fake = D(x), D(G(z))
        expected = (gan.discriminator_loss(real, fake).item(), real.sigmoid().mean().item(),
                    fake.sigmoid().mean().item())
    found = gan.discriminator_step(D, G, optimizer, x, z)
    assert found == pytest.approx(expected)
    assert all(unchanged(G, before)) and all(p.grad is None for p in G.parameters())
    assert not any(unchanged(D, own))
    assert gan.discriminator_loss(D(x), D(G(z))) < found[0]


@pytest.mark.parametrize('kind', gan.LOSSES)
def test_a_step_of_the_generator_deceives_better_and_leaves_the_discriminator_alone(kind):
    D, G = networks()
    optimizer, before, own = adam(G), copy_of(D), copy_of(G)
    z = torch.rand(16, 4)
    with torch.no_grad():
        logits = D(G(z))
    loss = gan.generator_step(D, G, optimizer, z, kind)
    assert loss == pytest.approx(gan.generator_loss(logits, kind).item())
    assert all(unchanged(D, before)) and all(p.grad is None for p in D.parameters())
    assert not any(unchanged(G, own)) and D(G(z)).mean() > logits.mean()


def test_a_step_leaves_nothing_behind_for_the_next():
    """Each step equals one from the same weights and moments with nothing before it."""
    D, G = networks()
    D_optimizer, G_optimizer = adam(D), adam(G)
    x, z = torch.rand(3, 16, 9), torch.rand(6, 16, 4)
    for k in range(3):
        for turn, step, model, optimizer, given in (
                (0, gan.discriminator_step, D, D_optimizer, (x[k], z[2 * k])),
                (1, gan.generator_step, G, G_optimizer, (z[2 * k + 1],))):
            clean = networks(1)
            for twin, original in zip(clean, (D, G)):
                twin.load_state_dict(original.state_dict())
            fresh = adam(clean[turn])
            fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            step(D, G, optimizer, *given)
            step(*clean, fresh, *given)
            assert all(unchanged(model, copy_of(clean[turn])))


# ------------------------------------------------------------------------------------- training

def test_training_sees_every_image_once_per_epoch(monkeypatch):
    seen, step = [], gan.discriminator_step

    def spy(D, G, optimizer, x, z):
        seen.append((x, z))
        return step(D, G, optimizer, x, z)

    monkeypatch.setattr(gan, 'discriminator_step', spy)
    images = torch.rand(40, 9)
    training = gan.train(*networks(), images, 2, torch.Generator().manual_seed(0), batch_size=16)
    metrics = next(training)
    assert list(metrics) == ['discriminator_loss', 'D(x)', 'D(G(z))', 'generator_loss']
    assert [z.shape for _, z in seen] == [(16, 4), (16, 4), (8, 4)]
    x = torch.cat([x for x, _ in seen])
    torch.testing.assert_close(x.sort(0).values, images.sort(0).values)
    assert len(list(training)) == 1 and not torch.equal(seen[0][0], seen[3][0])
