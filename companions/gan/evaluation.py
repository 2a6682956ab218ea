"""Metrics of generated images: are they like the data, of all classes, and not copies?"""

import torch

from companions.common import images


class Evaluator:
    """Compares samples with real images, by distances and by a classifier of the training images.

    `evaluator(x)` of images x, float [N, channels, height, width] in [0, 1], returns a dictionary
    (entropies in nats; distances are the mean L2 distance to the nearest image):

        confidence           mean largest probability of the classifier, times its test accuracy
        conditional_entropy  mean entropy of its probabilities for a sample
        marginal_entropy     entropy of its mean probabilities, at most ln(classes)
        total_variation      of the predicted classes from uniform, 0 to 1 - 1/classes
        train_distance       of samples to training images, divided by that of test images
        memorized            fraction of samples nearer to a training image than 99 % of test images
        test_distance        of test images to samples, divided by that to `count` training images

    `real` has them for `count` test images and for as many training images.
    """

    def __init__(self, data, count, images_seen=30_000):
        self.data, self.count = data, count
        epochs = max(1, round(images_seen / len(data.train)))
        self.classifier = images.fit(
            data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs, seed=0)
        self.accuracy = images.accuracy(self.classifier, data.test, data.test_labels)
        random = torch.Generator().manual_seed(0)
        self.test = data.test[torch.randint(len(data.test), (count,), generator=random)]
        train = data.train[torch.randperm(len(data.train), generator=random)[:count]]
        self.test_to_train = nearest(self.test, data.train)[0]
        self.test_to_some = nearest(self.test, train)[0].mean()
        self.real = {'test images': {**self(self.test), 'test_distance': None},
                     'training images': self(train)}

    def __call__(self, x):
        probabilities = images.predict_logits(self.classifier, x).softmax(1)
        classes = probabilities.shape[1]
        frequencies = probabilities.argmax(1).bincount(minlength=classes) / len(x)
        distance = nearest(x, self.data.train)[0]
        values = {
            'confidence': self.accuracy * probabilities.amax(1).mean(),
            'conditional_entropy': torch.special.entr(probabilities).sum(1).mean(),
            'marginal_entropy': torch.special.entr(probabilities.mean(0)).sum(),
            'total_variation': (frequencies - 1 / classes).abs().sum() / 2,
            'train_distance': distance.mean() / self.test_to_train.mean(),
            'memorized': (distance < self.test_to_train.quantile(0.01)).float().mean(),
            'test_distance': nearest(self.test, x)[0].mean() / self.test_to_some}
        return {name: value.item() for name, value in values.items()}


def nearest(x, others):
    """Find the nearest of `others` to each image of x: (L2 distance, index), [N] each."""
    found = [torch.cdist(part.flatten(1), others.flatten(1)).min(1) for part in x.split(500)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
