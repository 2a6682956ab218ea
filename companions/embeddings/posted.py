"""The training step of the question as it was posted; README.md lists its mistakes."""

from torch.nn import functional as F

EPSILON = 5.0  # as posted


def posted_loss(forward, embedding, loss_of, optimizer, epsilon=EPSILON):
    """Return (F(x) + F(x + r), F(x)) as the posted code computes them, with one r for each word.

    r is the normalized row of the table's gradient, times epsilon. Where `optimizer` does not have
    the table, its gradient is never cleared, and r follows the sum over all minibatches so far.

    Args:
        forward: () -> outputs; looks the words up in `embedding`.
        embedding: nn.Embedding whose weight requires a gradient.
        loss_of: outputs -> scalar loss.
        optimizer: torch.optim.Optimizer of the model; its gradients are cleared.
    """
    loss = loss_of(forward())
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    r = F.normalize(embedding.weight.grad.data, p=2, dim=1) * epsilon
    perturbed, original = embedding.weight + r, embedding.weight.data
    embedding.weight.data = perturbed
    adversarial = loss_of(forward())
    embedding.weight.data = original
    embedding.training = False
    return loss + adversarial, loss
