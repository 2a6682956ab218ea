"""The assignment's functions: costs and gradients of word2vec for one window, in NumPy.

For a center word c with input vector v and a context word o, over a vocabulary of V words whose
output vectors u_w are the rows of U, the assignment defines

    (1)  ŷ_o = p(o|c) = exp(u_oᵀv) / Σ_w exp(u_wᵀv)
    (2)  J = −log ŷ_o
    (3)  J = −log σ(u_oᵀv) − Σ_k log σ(−u_kᵀv),  K words k ≠ o drawn from a noise distribution

(Mikolov et al., arXiv:1301.3781 and arXiv:1310.4546; Goldberg and Levy, arXiv:1402.3722).
"""

import numpy as np


def sigmoid(z):
    """Return 1 / (1 + exp(−z)), without overflow."""
    return 0.5 * np.tanh(0.5 * z) + 0.5


def softmaxCostAndGradient(predicted, target, outputVectors, dataset=None):
    """Return equation (2) for one pair and its gradients: (J, ∂J/∂v [d], ∂J/∂U [V, d]).

    Args: predicted, v [d]; target, the row of o; outputVectors, U [V, d]; dataset is not used.

    With scores z = U v and the one-hot vector y of o, J = −z_o + log Σ_w exp z_w, so that

        ∂J/∂z_w = −y_w + exp z_w / Σ_x exp z_x = ŷ_w − y_w
        ∂J/∂v   = Σ_w (ŷ_w − y_w) u_w = Uᵀ(ŷ − y) = −(u_o − Σ_x p(x|c) u_x)
        ∂J/∂u_w = (ŷ_w − y_w) v, that is (ŷ_o − 1) v for w = o and ŷ_w v for every other word

    The second line is equation (4), whose middle term lacks a minus sign. Every output vector has a
    gradient, so one step costs O(V d).
    """
    z = outputVectors @ predicted
    z = z - z.max()  # leaves ŷ unchanged, and nothing overflows
    log_y = z - np.log(np.exp(z).sum())
    delta = np.exp(log_y)
    delta[target] -= 1
    return -log_y[target], outputVectors.T @ delta, np.outer(delta, predicted)


def negSamplingCostAndGradient(predicted, target, outputVectors, dataset, K=10):
    """Return equation (3) for one pair and its gradients: (J, ∂J/∂v [d], ∂J/∂U [V, d]).

    Arguments as of `softmaxCostAndGradient`; dataset.sampleTokenIdx() draws a row from the noise
    distribution. Derived in `negative_sampling_rows`. All but K + 1 rows of ∂J/∂U are zero, but the
    assignment's signature requires all of it, which costs O(V d).
    """
    rows = [target, *getNegativeSamples(target, dataset, K)]
    cost, grad_predicted, grad_rows = negative_sampling_rows(predicted, outputVectors[rows])
    grad = np.zeros_like(outputVectors)
    np.add.at(grad, rows, grad_rows)  # grad[rows] += … would count a repeated negative once
    return cost, grad_predicted, grad


def getNegativeSamples(target, dataset, K):
    """Draw K rows other than `target`."""
    negatives = []
    while len(negatives) < K:
        if (drawn := dataset.sampleTokenIdx()) != target:
            negatives.append(drawn)
    return negatives


def negative_sampling_rows(v, u):
    """Return equation (3) and its gradients: (J, ∂J/∂v [d], ∂J/∂u [1 + K, d]).

    Args: v [d]; u [1 + K, d], the output vectors of the target and of K negatives.

    From dσ/dz = σ(1 − σ) and σ(−z) = 1 − σ(z),

        d/dz −log σ(z)  = −σ(1 − σ) / σ = σ(z) − 1              (the target)
        d/dz −log σ(−z) = σ(−z) (1 − σ(−z)) / σ(−z) = σ(z)      (a negative)
        ∂J/∂v   = (σ(u_oᵀv) − 1) u_o + Σ_k σ(u_kᵀv) u_k
        ∂J/∂u_o = (σ(u_oᵀv) − 1) v
        ∂J/∂u_k = σ(u_kᵀv) v for each draw, n times for a word drawn n times

    This is cheaper than (2) because it uses K + 1 output vectors instead of V: O(K d).
    """
    z = u @ v
    delta = sigmoid(z)
    delta[0] -= 1
    cost = np.logaddexp(0, -z[0]) + np.logaddexp(0, z[1:]).sum()
    return cost, u.T @ delta, np.outer(delta, v)


def skipgram(currentWord, C, contextWords, tokens, inputVectors, outputVectors, dataset,
             word2vecCostAndGradient=softmaxCostAndGradient):
    """Predict each word of a window from its center: (J, ∂J/∂inputVectors, ∂J/∂outputVectors).

    Args: currentWord, the center, and contextWords, at most 2C words around it, are keys of the
    dictionary tokens, word: row. The vectors and their gradients are [V, d]. J is the sum of the
    costs of all pairs (c, o); of the input vectors only the center's has a gradient.
    """
    center = tokens[currentWord]
    cost, grad_in, grad_out = 0.0, np.zeros_like(inputVectors), np.zeros_like(outputVectors)
    for word in contextWords:
        part, grad_predicted, grad = word2vecCostAndGradient(
            inputVectors[center], tokens[word], outputVectors, dataset)
        cost += part
        grad_in[center] += grad_predicted
        grad_out += grad
    return cost, grad_in, grad_out


def cbow(currentWord, C, contextWords, tokens, inputVectors, outputVectors, dataset,
         word2vecCostAndGradient=softmaxCostAndGradient):
    """Predict the center from the mean of its window; arguments and results as of `skipgram`.

    With h = Σ_j v_j / m and ∂h/∂v_j = I / m, each of the m context words gets ∂J/∂h / m (repeated
    ones repeatedly). The authors' code and gensim omit the 1 / m (İrsoy et al., arXiv:2012.15332).
    """
    rows = [tokens[word] for word in contextWords]
    h = inputVectors[rows].mean(0)
    cost, grad_h, grad_out = word2vecCostAndGradient(h, tokens[currentWord], outputVectors, dataset)
    grad_in = np.zeros_like(inputVectors)
    np.add.at(grad_in, rows, grad_h / len(rows))
    return cost, grad_in, grad_out
