"""Models trained with noise: where the noise goes, and that it is new in every epoch."""

import torch

from companions.common import models
from load_data import DEFAULT_PATH, load_data


def test_noise_is_added_to_valid_steps_only():
    torch.manual_seed(0)
    batches, _ = load_data(DEFAULT_PATH)
    for batch, noisy in zip(batches, models.add_noise(batches, 0.3)):
        valid = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
        noise = noisy.inputs - batch.inputs
        assert not noise[~valid].any() and 0.28 < noise[valid].std() < 0.32
    assert models.add_noise(batches, 0) is batches


def test_every_model_is_trained_with_new_noise_in_every_epoch(monkeypatch):
    inputs, add_noise = [], models.add_noise

    def record(batches, sigma):
        assert sigma == models.NOISE
        noisy = add_noise(batches, sigma)
        inputs.append(noisy[0].inputs)
        return noisy

    monkeypatch.setattr(models, 'add_noise', record)
    base = models.train_noise_model('base', 0, {}, None, 2, {})
    for name in ('Adv', 'Prox', 'AMP'):
        trained = models.train_noise_model(name, 0, {}, base, 2, {})
        assert not all(torch.equal(x, base['state_dict'][key])
                       for key, x in trained['state_dict'].items())
    assert len(inputs) == 8
    assert not any(torch.equal(inputs[k], inputs[k + 1]) for k in range(7))


def test_the_best_recipe_is_trained_with_noise(monkeypatch):
    settings = []

    def fit(*_, **given):
        settings.append(given)
        return models.recipe.BestClassifier()

    monkeypatch.setattr(models.recipe, 'fit', fit)
    for more in ({'epochs': 2}, {}):
        models.train_noise_model('best recipe', 0, {}, None, 9, more)
    assert settings == [{'noise': models.NOISE, 'epochs': 2}, {'noise': models.NOISE}]
