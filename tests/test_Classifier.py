"""The classifier: what it computes, and that padding, mode and placement do what they say.

    python -m pytest tests/test_Classifier.py
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from Classifier import PLACEMENTS, LSTMClassifier
from support.checkpoints import save_checkpoint

EVERYWHERE = {'dropout': {placement: 0.5 for placement in PLACEMENTS}, 'batch_norm': PLACEMENTS}


def batch(lengths=(7, 9, 4), features=12):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(lengths)
    inputs = torch.randn(len(lengths), max(lengths), features, generator=generator)
    return inputs * (torch.arange(max(lengths)) < lengths[:, None])[:, :, None], lengths


def make(**arguments):
    torch.manual_seed(1)
    return LSTMClassifier(**arguments)


def run(model, inputs, lengths, mode):
    return model(inputs, lengths, mode=mode, r=0.3 if mode == 'AdvLSTM' else 0)


def test_plain_forward_is_the_assignments_chain_of_layers():
    model, (inputs, lengths) = make(), batch()
    lstm = nn.LSTM(64, 50, batch_first=True)
    lstm.load_state_dict(model.lstm.state_dict())
    for i, n in enumerate(lengths):
        x = inputs[i, :n]
        x = x / x.pow(2).sum(dim=1, keepdim=True).sqrt()  # each step to norm 1 over its 12 features
        x = model.conv(x.T[None]).relu().permute(0, 2, 1)
        assert x.shape == (1, n - 2, 64)
        expected = model.linear(lstm(x)[0][0, -1])
        torch.testing.assert_close(model(inputs, lengths)[i], expected)


def test_scaling_a_step_changes_nothing_but_scaling_a_feature_does():
    model, (inputs, lengths) = make(), batch()
    steps = torch.rand(*inputs.shape[:2], 1) + 0.5
    torch.testing.assert_close(model(inputs * steps, lengths), model(inputs, lengths))
    features = torch.ones(12)
    features[0] = 3
    assert not torch.allclose(model(inputs * features, lengths), model(inputs, lengths))


def test_single_feature_is_not_erased():
    model, (inputs, lengths) = make(input_size=1), batch(features=1)
    assert not torch.allclose(model(2 * inputs, lengths), model(inputs, lengths))


@pytest.mark.parametrize('mode', ['plain', 'AdvLSTM', 'ProxLSTM'])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('training', [False, True])
def test_padding_never_changes_a_prediction(mode, stride, training):
    """Neither more padding, nor garbage in it; batch normalization must exclude it in training."""
    model, (inputs, lengths) = make(stride=stride, batch_norm=PLACEMENTS), batch()
    model.train(training)
    expected = run(copy.deepcopy(model), inputs, lengths, mode)
    longer = F.pad(inputs, (0, 0, 0, 5))
    longer[torch.arange(longer.shape[1]) >= lengths[:, None]] = 123.0
    torch.testing.assert_close(run(model, longer, lengths, mode), expected)


@pytest.mark.parametrize('mode', ['plain', 'AdvLSTM', 'ProxLSTM'])
def test_a_sequence_is_classified_alike_alone_and_in_a_batch(mode):
    model, (inputs, lengths) = make().eval(), batch()
    together = run(model, inputs, lengths, mode)
    for i, n in enumerate(lengths):
        alone = run(model, inputs[i:i + 1, :n], lengths[i:i + 1], mode)
        torch.testing.assert_close(alone[0], together[i])


def test_modes_differ_and_epsilon_zero_is_plain():
    model, (inputs, lengths) = make(epsilon=2.0), batch()
    plain = model(inputs, lengths)
    assert torch.equal(model(inputs, lengths, mode='ProxLSTM', epsilon=0), plain)
    assert torch.equal(model(inputs, lengths, mode='AdvLSTM'), plain)
    prox = model(inputs, lengths, mode='ProxLSTM')
    assert not torch.allclose(prox, plain, atol=1e-4)
    assert torch.equal(model(inputs, lengths, mode='ProxLSTM', epsilon=2.0), prox)


def test_v_is_the_lstm_input_and_r_is_added_to_it():
    model, (inputs, lengths) = make(), batch()
    model(inputs, lengths)
    v = model.v
    assert v.shape == (3, 7, 64)
    model.eval()(torch.zeros(1, 3, 12), torch.tensor([3]))
    assert model.v is v  # an evaluation in between does not replace it
    r = torch.randn_like(v)
    expected = model.linear(model.lstm(v + r, epsilon=0)[0][torch.arange(3), lengths - 3])
    assert torch.equal(model(inputs, lengths, r=r, mode='AdvLSTM'), expected)


@pytest.mark.parametrize('arguments, message', [
    ({'mode': 'prox'}, "mode is 'prox', expected one of plain, AdvLSTM, ProxLSTM"),
    ({'mode': 'plain', 'r': torch.zeros(1)}, "r is for mode 'AdvLSTM'"),
    ({'mode': 'AdvLSTM', 'epsilon': 0.1}, "epsilon is for mode 'ProxLSTM'"),
    ({'mode': 'ProxLSTM', 'epsilon': -1.0}, 'epsilon is -1.0'),
])
def test_what_a_mode_would_misread_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make()(*batch(), **arguments)


def test_lengths_on_an_accelerator_are_not_waited_for():
    """On 'meta' tensors have no values, so that reading one, which would wait for a GPU, fails."""
    model, (inputs, lengths) = make().to('meta'), batch()
    for mode in 'plain', 'AdvLSTM':
        assert run(model, inputs.to('meta'), lengths.to('meta'), mode).shape == (3, 9)


def test_saved_model_is_rebuilt_from_its_file_or_dictionary(tmp_path):
    class Subclass(LSTMClassifier):
        pass

    model = make(hidden_size=7, **EVERYWHERE)
    checkpoint = {'arguments': {'hidden_size': 7, **EVERYWHERE}, 'state_dict': model.state_dict()}
    save_checkpoint(tmp_path / 'model.pt', checkpoint)
    expected = model.eval()(*batch())
    for cls in LSTMClassifier, Subclass:
        for source in checkpoint, tmp_path / 'model.pt', str(tmp_path / 'model.pt'):
            rebuilt = cls.from_checkpoint(source)
            assert type(rebuilt) is cls and not rebuilt.training
            assert torch.equal(rebuilt(*batch()), expected)
    del checkpoint['state_dict']['linear.bias']
    with pytest.raises(ValueError, match='not a checkpoint of LSTMClassifier.*\n.*Missing key'):
        LSTMClassifier.from_checkpoint(checkpoint)
    (tmp_path / 'model.pt').write_bytes(b'no model')
    with pytest.raises(ValueError, match='model.pt'):
        LSTMClassifier.from_checkpoint(tmp_path / 'model.pt')


def test_length_beyond_the_input_is_refused():
    inputs, lengths = batch()
    with pytest.raises(ValueError, match='a sequence has 10 steps, the input 9'):
        make()(inputs, lengths + 1)


def test_sequence_shorter_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match="2 steps, fewer than the convolution kernel's 3"):
        make()(*batch(lengths=(7, 2)))


@pytest.mark.parametrize('option', [{'dropout': {'lstm': 0.5}}, {'batch_norm': ['after']}])
def test_unknown_placement_is_refused(option):
    with pytest.raises(ValueError, match='expected one of input, conv, lstm_input, output'):
        make(**option)


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_batch_norm_statistics_are_those_of_the_valid_steps(placement):
    model, (inputs, lengths) = make(batch_norm=[placement]), batch()
    norm, seen = model.batch_norm[placement], []
    norm.register_forward_hook(lambda module, arguments, output: seen.append((arguments, output)))
    model(inputs, lengths)
    (x, mask), y = seen[0]
    assert mask.sum() == {'input': 20, 'output': 3}.get(placement, 20 - 3 * 2)
    torch.testing.assert_close(norm.running_mean, 0.1 * x[mask].mean(0))
    torch.testing.assert_close(y[mask].mean(0), torch.zeros(x.shape[2]), atol=1e-5, rtol=0)
    assert not y[~mask].any()


@pytest.mark.parametrize('placement', PLACEMENTS)
def test_dropout_acts_in_training_only(placement):
    model, data = make(dropout={placement: 0.5}), batch()
    assert not torch.equal(model(*data), model(*data))
    model.eval()
    assert torch.equal(model(*data), model(*data))
    assert torch.equal(model(*data), make().eval()(*data))


def test_base_weights_load_strictly_and_a_used_model_can_be_copied():
    base = make()
    base(*batch())
    other = LSTMClassifier(epsilon=3.0, dropout=EVERYWHERE['dropout'])
    other.load_state_dict(base.state_dict(), strict=True)
    assert torch.equal(other.eval()(*batch()), base.eval()(*batch()))
    assert torch.equal(copy.deepcopy(base)(*batch()), base(*batch()))
    assert base.v is not None and copy.deepcopy(base).v is None


@pytest.mark.parametrize('mode', ['plain', 'AdvLSTM', 'ProxLSTM'])
def test_every_parameter_gets_a_gradient_in_every_mode(mode):
    model = make(**EVERYWHERE)
    run(model, *batch(), mode).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize('mode', ['plain', 'ProxLSTM'])
def test_in_evaluation_gradients_are_computed_without_cudnn_which_has_none(mode):
    model, (inputs, lengths) = make(), batch()
    seen = []
    model.lstm.register_forward_hook(lambda *_: seen.append(torch.backends.cudnn.enabled))
    before = torch.backends.cudnn.enabled
    for training, grad, enabled in ((True, True, before), (False, False, before),
                                    (False, True, False)):
        model.train(training)
        with torch.set_grad_enabled(grad):
            run(model, inputs, lengths, mode)
        assert seen[-1] is enabled and torch.backends.cudnn.enabled is before


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('mode', ['plain', 'AdvLSTM', 'ProxLSTM'])
def test_gradients_of_the_input_in_evaluation_on_cuda(mode):
    model, (inputs, lengths) = make().eval(), batch()
    results = []
    for device in ('cpu', 'cuda'):
        leaf = inputs.to(device).requires_grad_()
        run(model.to(device), leaf, lengths, mode).square().sum().backward()
        results.append(leaf.grad.cpu())
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
