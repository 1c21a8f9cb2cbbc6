"""ResNet50 and EfficientNetB0 in PyTorch, for the benchmark.

As torchvision and Keras have them, written plainly with the names of our
layers. Imports PyTorch, so import this module only where the peer runs.
"""

import torch
from torch import nn
from torch.nn import functional

from experiments import benchmark_networks as networks

_DEPTHS = (3, 4, 6, 3)
# (blocks, kernel, stride, expansion, channels) of each group.
_GROUPS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


class Bottleneck(nn.Module):
  """1x1, 3x3 with the stride, 1x1, and a shortcut."""

  def __init__(self, channels, width, stride, project):
    super().__init__()
    self.project = project
    sizes = [(channels, width, 1, 1), (width, width, 3, stride),
             (width, 4 * width, 1, 1)]
    if project:
      sizes.insert(0, (channels, 4 * width, 1, stride))
    for i, (a, b, k, s) in enumerate(sizes, not project):
      self.add_module(f'{i}_conv', nn.Conv2d(a, b, k, s, k // 2, bias=False))
      self.add_module(f'{i}_bn', nn.BatchNorm2d(b))

  def part(self, i, x):
    return getattr(self, f'{i}_bn')(getattr(self, f'{i}_conv')(x))

  def forward(self, x):
    shortcut = self.part(0, x) if self.project else x
    x = functional.relu(self.part(1, x), inplace=True)
    x = functional.relu(self.part(2, x), inplace=True)
    return functional.relu(self.part(3, x) + shortcut, inplace=True)


def resnet50() -> networks.Chain:
  """Returns the map [B, 2048, h, w] of torchvision's ResNet50."""
  parts = {
      'conv1_conv': nn.Conv2d(3, 64, 7, 2, 3, bias=False),
      'conv1_bn': nn.BatchNorm2d(64), 'relu': nn.ReLU(inplace=True),
      'pool': nn.MaxPool2d(3, 2, 1)}
  channels = 64
  for stage, depth in enumerate(_DEPTHS):
    width = 64 * 2**stage
    for index in range(depth):
      parts[f'conv{stage + 2}_block{index + 1}'] = Bottleneck(
          channels, width, 2 if stage and not index else 1, not index)
      channels = 4 * width
  return networks.Chain(**parts)


class MBConv(nn.Module):
  """Inverted residual with squeeze-and-excitation and stochastic depth."""

  def __init__(self, channels, features, kernel, stride, expansion, drop):
    super().__init__()
    width = expansion * channels
    norm = lambda n: nn.BatchNorm2d(n, 1e-3, 0.01)
    if expansion > 1:
      self.expand_conv = nn.Conv2d(channels, width, 1, bias=False)
      self.expand_bn = norm(width)
    self.dwconv = networks.SameConv(
        width, width, kernel, stride, groups=width, bias=False)
    self.bn = norm(width)
    self.se_reduce = nn.Conv2d(width, max(1, channels // 4), 1)
    self.se_expand = nn.Conv2d(max(1, channels // 4), width, 1)
    self.project_conv = nn.Conv2d(width, features, 1, bias=False)
    self.project_bn = norm(features)
    self.expands = expansion > 1
    self.adds = stride == 1 and channels == features
    self.drop = nn.Dropout(drop)

  def forward(self, x):
    y = x
    if self.expands:
      y = functional.silu(self.expand_bn(self.expand_conv(y)), inplace=True)
    y = functional.silu(self.bn(self.dwconv(y)), inplace=True)
    s = self.se_reduce(y.mean((2, 3), keepdim=True))
    y = y * torch.sigmoid(self.se_expand(functional.silu(s, inplace=True)))
    y = self.project_bn(self.project_conv(y))
    if not self.adds:
      return y
    # Dropout of ones: whole examples go, the others grow to make up for it.
    return x + y * self.drop(y.new_ones(len(y), 1, 1, 1))


class Normalization(nn.Module):
  """Bytes to [0, 1], less a mean, over a deviation."""

  def __init__(self):
    super().__init__()
    self.register_buffer('mean', torch.zeros(3, 1, 1))
    self.register_buffer('deviation', torch.ones(3, 1, 1))

  def forward(self, x):
    return (x / 255 - self.mean) / self.deviation


class Swish(nn.Module):
  """x sigmoid(x)."""

  def forward(self, x):
    return functional.silu(x, inplace=True)


def efficientnet_b0(drop_path: float = 0.2) -> networks.Chain:
  """Returns the map [B, 1280, h, w] of Keras' EfficientNetB0."""
  norm = lambda n: nn.BatchNorm2d(n, 1e-3, 0.01)
  parts = {'normalise': Normalization(),
           'stem_conv': networks.SameConv(3, 32, 3, 2, bias=False),
           'stem_bn': norm(32), 'stem_swish': Swish()}
  total, index, channels = sum(g[0] for g in _GROUPS), 0, 32
  for group, (blocks, kernel, stride, expansion, n) in enumerate(_GROUPS, 1):
    for i in range(blocks):
      parts[f'block{group}{"abcd"[i]}'] = MBConv(
          channels, n, kernel, 1 if i else stride, expansion,
          drop_path * index / total)
      index, channels = index + 1, n
  return networks.Chain(
      **parts, top_conv=nn.Conv2d(320, 1280, 1, bias=False),
      top_bn=norm(1280), top_swish=Swish())
