"""The networks of the benchmark as a PyTorch user writes them.

Layers carry the names of ours, so that weights are copied by path
(benchmark_torch.py). Maps are channels_last; flattened features are in the
order height, width, channels, which costs nothing there and is ours. Imports
PyTorch, so import this module only where the peer runs.
"""

import torch
from torch import nn
from torch.nn import functional


class Chain(nn.Module):
  """Named layers in a row."""

  def __init__(self, **parts):
    super().__init__()
    self.names = tuple(parts)
    for name, part in parts.items():
      self.add_module(name, part)

  def forward(self, x):
    for name in self.names:
      x = getattr(self, name)(x)
    return x


class Flatten(nn.Module):
  """[B, C, H, W] to [B, H W C]."""

  def forward(self, x):
    return x.permute(0, 2, 3, 1).flatten(1)


class Average(nn.Module):
  """[B, C, H, W] to [B, C]."""

  def forward(self, x):
    return x.mean((2, 3))


class SameConv(nn.Conv2d):
  """Convolution with TensorFlow's 'SAME': what is odd is padded behind."""

  def forward(self, x):
    pads = []
    for n, k, s in zip(x.shape[:1:-1], self.kernel_size[::-1],
                       self.stride[::-1]):
      total = max((-(-n // s) - 1) * s + k - n, 0)
      pads += [total // 2, total - total // 2]
    if pads[0] == pads[1] and pads[2] == pads[3]:
      return functional.conv2d(
          x, self.weight, self.bias, self.stride, (pads[2], pads[0]),
          self.dilation, self.groups)
    return super().forward(functional.pad(x, pads))


class Head(Chain):
  """The head of `specs`, as models/heads.py reads them, with class logits."""

  def __init__(self, inputs: int, classes: int, specs: tuple[str, ...]):
    parts = {'pool': Flatten() if specs[0] == 'flatten' else Average()}
    counts = {'dense': 0, 'batch_norm': 0}
    for i, spec in enumerate(specs[1:]):
      kind, _, argument = spec.partition(':')
      if kind == 'dense':
        parts[f'Dense_{counts[kind]}'] = nn.Linear(inputs, int(argument))
        parts[f'relu_{i}'] = nn.ReLU(inplace=True)
        inputs = int(argument)
      elif kind == 'batch_norm':
        parts[f'BatchNorm_{counts[kind]}'] = nn.BatchNorm1d(inputs, 1e-3, 0.01)
      else:
        parts[f'dropout_{i}'] = nn.Dropout(float(argument))
      counts[kind] = counts.get(kind, 0) + 1
    super().__init__(**parts, logits=nn.Linear(inputs, classes))


class Encoder(nn.Module):
  """Levels of convolution, pooling, ReLU and dropout."""

  def __init__(self, features, dropout):
    super().__init__()
    self.depth, channels = len(features), 3
    for i, n in enumerate(features):
      self.add_module(f'level_{i}', nn.Conv2d(channels, n, 3, padding=1))
      channels = n
    self.dropout = nn.Dropout(dropout)

  def levels(self, x):
    maps = []
    for i in range(self.depth):
      x = functional.max_pool2d(getattr(self, f'level_{i}')(x), 2)
      x = self.dropout(functional.relu(x, inplace=True))
      maps.append(x)
    return maps

  def forward(self, x):
    return self.levels(x)[-1]


class UNet(nn.Module):
  """The study's: skips are added, nothing between transposed convolutions."""

  def __init__(self, features, dropout):
    super().__init__()
    self.encoder = Encoder(features, dropout)
    sizes = (*features[::-1], 3)
    for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
      self.add_module(f'up_{i}', nn.ConvTranspose2d(a, b, 2, 2))

  def forward(self, x):
    *levels, x = self.encoder.levels(x)
    for i in range(len(levels) + 1):
      x = getattr(self, f'up_{i}')(x)
      if levels:
        x = x + levels.pop()
    return torch.sigmoid(x)


class DenseAutoencoder(nn.Module):
  """Dense layers down and up again, on images of one channel."""

  def __init__(self, shape, features):
    super().__init__()
    pixels = shape[0] * shape[1]
    down, up = (pixels, *features), (*features[::-1], pixels)
    join = lambda sizes: Chain(**{
        name: part for i, (a, b) in enumerate(zip(sizes, sizes[1:]))
        for name, part in ((f'Dense_{i}', nn.Linear(a, b)),
                           (f'relu_{i}', nn.ReLU(inplace=True)))})
    self.encoder, self.decoder = join(down), join(up)
    self.decoder.names = self.decoder.names[:-1]  # The last has no ReLU.

  def forward(self, x):
    code = self.encoder(x.flatten(1))
    return torch.sigmoid(self.decoder(code)).reshape(x.shape)


class ConvAutoencoder(nn.Module):
  """Three convolutions in steps of 2, three transposed ones back."""

  def __init__(self, features):
    super().__init__()
    down, up = (3, *features), (*features[::-1], 3)
    self.encoder = Chain(**{
        name: part for i, (a, b) in enumerate(zip(down, down[1:]))
        for name, part in ((f'Conv_{i}', nn.Conv2d(a, b, 3, 2, 1)),
                           (f'relu_{i}', nn.ReLU(inplace=True)))})
    self.decoder = Chain(**{
        name: part for i, (a, b) in enumerate(zip(up, up[1:]))
        for name, part in (
            (f'Doubling_{i}', nn.ConvTranspose2d(a, b, 3, 2, 1, 1)),
            (f'relu_{i}', nn.ReLU(inplace=True)))})
    self.decoder.names = self.decoder.names[:-1]

  def forward(self, x):
    return torch.sigmoid(self.decoder(self.encoder(x)))


def imbalance_encoder() -> Chain:
  """Four convolutions with ReLU and overlapping pooling."""
  parts, channels = {}, 3
  for i, (n, k, s, p) in enumerate(
      ((32, 7, 2, 0), (64, 5, 1, 2), (128, 3, 1, 1), (128, 3, 1, 1)), 1):
    parts |= {f'conv{i}': nn.Conv2d(channels, n, k, s, p),
              f'relu{i}': nn.ReLU(inplace=True),
              f'pool{i}': nn.MaxPool2d(3, 2)}
    channels = n
  return Chain(**parts)


class Generator(nn.Module):
  """The jellyfish study's, [B, d] to [B, 3, 64, 64] in [-1, 1]."""

  def __init__(self, latent_dims, features):
    super().__init__()
    self.first, self.depth = features[0], len(features)
    self.Dense_0 = nn.Linear(latent_dims, 16 * features[0])
    channels = features[0]
    for i, n in enumerate(features):
      self.add_module(f'UpConv_{i}', nn.Conv2d(channels, n, 3, padding=1))
      self.add_module(
          f'ClassNorm_{i}', Chain(BatchNorm_0=nn.BatchNorm2d(n, 1e-3, 0.2)))
      channels = n
    self.Conv_0 = nn.Conv2d(channels, 3, 3, padding=1)

  def forward(self, z):
    x = functional.relu(self.Dense_0(z), inplace=True)
    x = x.reshape(-1, 4, 4, self.first).permute(0, 3, 1, 2)
    for i in range(self.depth):
      x = getattr(self, f'UpConv_{i}')(
          functional.interpolate(x, scale_factor=2.0))
      x = functional.relu(getattr(self, f'ClassNorm_{i}')(x), inplace=True)
    return torch.tanh(self.Conv_0(x))


class Discriminator(nn.Module):
  """The jellyfish study's, [B, 3, 64, 64] to one logit each."""

  def __init__(self, features, dropout):
    super().__init__()
    self.depth, channels = len(features), 3
    for i, n in enumerate(features):
      self.add_module(
          f'Conv_{i}', SameConv(channels, n, 3, 2 if i < 3 else 1))
      if i:
        self.add_module(f'BatchNorm_{i - 1}', nn.BatchNorm2d(n, 1e-3, 0.2))
      channels = n
    self.dropout = nn.Dropout(dropout)
    self.Dense_0 = nn.Linear(81 * channels, 1)

  def forward(self, x):
    for i in range(self.depth):
      x = getattr(self, f'Conv_{i}')(x)
      if i == 1:
        x = functional.pad(x, (0, 1, 0, 1))
      if i:
        x = getattr(self, f'BatchNorm_{i - 1}')(x)
      x = self.dropout(functional.leaky_relu(x, 0.2, inplace=True))
    return self.Dense_0(x.permute(0, 2, 3, 1).flatten(1))[:, 0]
