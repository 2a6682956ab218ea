"""The best recipe found here for the classifier on Japanese Vowels.

    model = BestClassifier.from_checkpoint('checkpoints/companions/best_seed0.pt')
    speaker = model(inputs, lengths).argmax(1)   # float32 [B, T, 12] zero-padded, int64 [B]

`python -m companions.best_recipe.experiment` writes that checkpoint. The inputs are not normalized.
To train on data of your own: `model = fit(sequences, labels)`.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from Classifier import LSTMClassifier
from load_data import make_batches
from ProxLSTM import ProxLSTM
from support.parallel import seeded
from training import average_weights, train_model

# The settings of training.py's base model, and those that each ingredient changes.
BASE = {'raw': False, 'norm_input': False, 'norm_conv': False, 'weight_decay': 1e-3,
        'one_cycle': False, 'shuffle': False, 'crop': 1.0, 'offset': 0.0, 'warp': 0.0,
        'bidirectional': False, 'epochs': 80, 'hidden_size': 50, 'out_channels': 64,
        'smoothing': 0.0, 'average_decay': 0.0, 'mode': 'plain', 'epsilon': None, 'teachers': 0,
        'noise': 0.0}  # standard deviation of Gaussian noise in the input; no ingredient has it
INGREDIENTS = {
    'raw values': {'raw': True},                # as input, beside the normalized ones
    'batch norm, input': {'norm_input': True},
    'batch norm, before ReLU': {'norm_conv': True},
    'weight decay 5e-3': {'weight_decay': 5e-3},
    'one-cycle schedule': {'one_cycle': True},  # of lr and beta1; without it, constant
    'shuffled batches': {'shuffle': True},
    'random crop': {'crop': 0.8},               # smallest share of a sequence to keep
    'random offset': {'offset': 0.4},           # in standard deviations of a coefficient
    'twice the epochs': {'epochs': 160},
    'time warp': {'warp': 0.3},                 # largest |stretch| and |bend|, see `warp`
    'bidirectional LSTM': {'bidirectional': True},
    'twice the width': {'hidden_size': 100, 'out_channels': 128},
    'label smoothing 0.1': {'smoothing': 0.1},  # share of the uniform distribution in the targets
    'averaged weights': {'average_decay': 0.99},
    'AdvLSTM, ε = 1': {'mode': 'AdvLSTM', 'epsilon': 1.0},
    'ProxLSTM, ε = 2': {'mode': 'ProxLSTM', 'epsilon': 2.0},
    'distillation': {'teachers': 5},            # models whose mean probabilities are the targets
}
CHOSEN = (*list(INGREDIENTS)[:8], 'twice the epochs', 'time warp', 'bidirectional LSTM',
          'label smoothing 0.1')  # by --tune
BATCH_SIZE, KERNEL_SIZE, PEAK_LR, CONSTANT_LR = 27, 3, 3e-3, 1e-3


class BestClassifier(LSTMClassifier):
    """`LSTMClassifier` with two options.

    With `raw` it reads each step twice: divided by its norm, and as it is. With `bidirectional`
    a second LSTM reads each sequence from its end; the linear layer reads the last outputs of both.
    """

    def __init__(self, input_size=12, raw=True, bidirectional=False, **arguments):
        super().__init__(input_size * (1 + raw), **arguments)
        self.raw = raw
        self.backward_lstm = None
        if bidirectional:
            hidden_size, classes = self.linear.in_features, self.linear.out_features
            self.backward_lstm = ProxLSTM(self.conv.out_channels, hidden_size, batch_first=True)
            self.linear = nn.Linear(2 * hidden_size, classes)
        self.arguments = {'input_size': input_size, 'raw': raw,  # for a checkpoint
                          'bidirectional': bidirectional, **arguments}

    def normalize(self, input):
        normalized = super().normalize(input)
        return torch.cat([normalized, input], dim=2) if self.raw else normalized

    def last_output(self, v, lengths, epsilon):
        last = super().last_output(v, lengths, epsilon)
        if self.backward_lstm is None:
            return last
        steps = lengths[:, None] - 1 - torch.arange(v.shape[1], device=v.device)
        reverse = v.take_along_dim(steps.clamp(min=0)[:, :, None], dim=1)
        first = super().last_output(reverse, lengths, epsilon, self.backward_lstm)
        return torch.cat([last, first], dim=1)


def recipe_of(ingredients):
    """Return the settings of a recipe with these ingredients."""
    return BASE | {key: value for name in ingredients for key, value in INGREDIENTS[name].items()}


def fit(sequences, labels, seed=0, ingredients=CHOSEN, **settings):
    """Train one model on float32 [T, F] arrays and their classes, int64 [N] from 0.

    It runs on the CPU, on one thread; `settings` replace the recipe's, see BASE. Returns the model
    in evaluation mode. Raises ValueError for a setting that is not in BASE, if a sequence is
    shorter than the convolution kernel, or if batch normalization could get a minibatch of one
    value.
    """
    if unknown := sorted(settings.keys() - BASE.keys()):
        raise ValueError(f'no such setting: {", ".join(unknown)}; expected some of '
                         f'{", ".join(BASE)}')
    recipe = recipe_of(ingredients) | settings
    epochs = recipe['epochs']
    check_last_batch(sequences, recipe)
    teachers = [fit(sequences, labels, 1000 * k + seed, ingredients, **{**settings, 'teachers': 0})
                for k in range(1, recipe['teachers'] + 1)]
    generator = np.random.default_rng(seed)
    deviation = np.concatenate(sequences).std(0)
    with seeded(seed):
        model = BestClassifier(
            sequences[0].shape[1], recipe['raw'], recipe['bidirectional'],
            output_size=int(labels.max()) + 1, kernel_size=KERNEL_SIZE,
            hidden_size=recipe['hidden_size'], out_channels=recipe['out_channels'],
            batch_norm=[place for place in ('input', 'conv') if recipe[f'norm_{place}']])
        optimizer = torch.optim.Adam(model.parameters(), CONSTANT_LR,
                                     weight_decay=recipe['weight_decay'])
        if recipe['average_decay']:
            averaged = average_weights(model, optimizer, recipe['average_decay'])
        if recipe['one_cycle']:
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs)
        for _ in range(epochs):
            order = generator.permutation(len(labels)) if recipe['shuffle'] else range(len(labels))
            changed = [augment(sequences[i], deviation, recipe, generator) for i in order]
            batches = make_batches(changed, labels[order], BATCH_SIZE)
            if recipe['shuffle']:
                batches = [batches[i] for i in generator.permutation(len(batches))]
            batches = [soften(batch, model, recipe, teachers) for batch in batches]
            train_model(model, batches, optimizer, recipe['mode'], recipe['epsilon'])
            if recipe['one_cycle']:
                schedule.step()
    return (averaged.module if recipe['average_decay'] else model).eval()


def check_last_batch(sequences, recipe):
    """Raise ValueError if the longest sequence, alone in a minibatch, could have a single value."""
    longest = max(map(len, sequences))
    shortest = cropped_length(warped_length(longest, -recipe['warp']), recipe['crop'])
    if len(sequences) % BATCH_SIZE == 1 and recipe['norm_conv'] and shortest == KERNEL_SIZE:
        raise ValueError(f'batch normalization needs two values in every minibatch, but the last '
                         f'of {len(sequences)} sequences of at most {longest} steps may leave only '
                         f'one')


def augment(x, deviation, recipe, generator):
    """Change the speed of x [T, F], cut a random piece out and add a constant to each feature."""
    if recipe['warp']:
        x = warp(x, *generator.uniform(-recipe['warp'], recipe['warp'], 2))
    steps = generator.integers(cropped_length(len(x), recipe['crop']), len(x) + 1)
    start = generator.integers(len(x) - steps + 1)
    if recipe['noise']:
        x = x + recipe['noise'] * generator.standard_normal(x.shape)
    offset = recipe['offset'] * deviation * generator.standard_normal(len(deviation))
    return (x[start:start + steps] + offset).astype(np.float32)


def warped_length(steps, stretch):
    return max(min(KERNEL_SIZE, steps), round(steps * math.exp(stretch)))


def cropped_length(steps, crop):
    """Return the smallest number of steps that a random crop keeps."""
    return max(math.ceil(crop * steps), min(KERNEL_SIZE, steps))


def warp(x, stretch, bend):
    """Interpolate x [T, F] linearly at exp(stretch) · T positions (T − 1) tᵇ, with b = exp(bend).

    t goes from 0 to 1 in equal steps.
    """
    position = (len(x) - 1) * np.linspace(0, 1, warped_length(len(x), stretch)) ** math.exp(bend)
    before = np.minimum(position.astype(int), len(x) - 2)
    weight = (position - before)[:, None]
    return (1 - weight) * x[before] + weight * x[before + 1]


@torch.no_grad()
def soften(batch, model, recipe, teachers):
    """Return the batch with its teachers' probabilities or smoothed classes as its targets."""
    targets, classes = batch.targets, model.linear.out_features
    if teachers:
        targets = sum(teacher(batch.inputs, batch.lengths).softmax(1) for teacher in teachers)
        targets = targets / len(teachers)
    if recipe['smoothing']:
        targets = F.one_hot(targets, classes) if targets.dim() == 1 else targets
        targets = (1 - recipe['smoothing']) * targets + recipe['smoothing'] / classes
    return batch._replace(targets=targets)


@torch.no_grad()
def probabilities(model, sequences, mode='plain', epsilon=None):
    """Return class probabilities, float32 [N, C], of float32 [T, F] arrays."""
    inputs = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, sequences)), batch_first=True)
    lengths = torch.tensor([len(x) for x in sequences])
    return model(inputs, lengths, mode=mode, epsilon=epsilon).softmax(1)


def accuracy(probabilities, labels):
    return (probabilities.argmax(1).numpy() == labels).mean().item()
