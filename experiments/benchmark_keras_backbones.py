"""ResNet50 and EfficientNetB0 in Keras, for the benchmark.

As keras.applications has EfficientNetB0, and torchvision's ResNet50 in the
same manner. Imports Keras, so import this module only where the peer runs.
"""

from keras import layers

# (blocks, kernel, stride, expansion, channels) of each group.
_GROUPS = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))


def conv(x, name, features, size, stride=1, *, bias=False):
  """Convolution with size // 2 pixels of padding on all sides."""
  if size > 1 and stride > 1:
    x = layers.ZeroPadding2D(size // 2)(x)
  return layers.Conv2D(
      features, size, stride, padding='valid' if stride > 1 else 'same',
      use_bias=bias, name=name)(x)


def resnet50(x, path: str):
  """Returns the map [B, h, w, 2048] of torchvision's ResNet50."""
  def unit(x, name, *shape):
    x = conv(x, f'{path}{name}_conv', *shape)
    return layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, name=f'{path}{name}_bn')(x)
  relu = lambda x: layers.Activation('relu')(x)
  x = layers.ZeroPadding2D(1)(relu(unit(x, 'conv1', 64, 7, 2)))
  x = layers.MaxPooling2D(3, 2)(x)  # No value is below the padding's zero.
  for stage, depth in enumerate((3, 4, 6, 3)):
    width = 64 * 2**stage
    for index in range(depth):
      block = f'conv{stage + 2}_block{index + 1}.'
      stride = 2 if stage and not index else 1
      shortcut = x if index else unit(x, f'{block}0', 4 * width, 1, stride)
      x = relu(unit(x, f'{block}1', width, 1))
      x = relu(unit(x, f'{block}2', width, 3, stride))
      x = relu(unit(x, f'{block}3', 4 * width, 1) + shortcut)
  return x


def efficientnet_b0(x, path: str, drop_path: float = 0.2):
  """Returns the map [B, h, w, 1280] of Keras' EfficientNetB0."""
  def norm(x, name, activation='swish'):
    x = layers.BatchNormalization(
        momentum=0.99, epsilon=1e-3, name=path + name)(x)
    return layers.Activation(activation)(x) if activation else x
  point = lambda x, name, n: layers.Conv2D(
      n, 1, use_bias=False, name=path + name)(x)
  x = layers.Normalization(mean=[0.0] * 3, variance=[1.0] * 3)(
      layers.Rescaling(1 / 255)(x))
  x = layers.Conv2D(32, 3, 2, padding='same', use_bias=False,
                    name=f'{path}stem_conv')(x)
  x = norm(x, 'stem_bn')
  total, index = sum(group[0] for group in _GROUPS), 0
  for group, (blocks, kernel, stride, expansion, n) in enumerate(_GROUPS, 1):
    for i in range(blocks):
      block, channels, y = f'block{group}{"abcd"[i]}.', x.shape[-1], x
      step = 1 if i else stride
      if expansion > 1:
        y = norm(point(y, f'{block}expand_conv', expansion * channels),
                 f'{block}expand_bn')
      y = layers.DepthwiseConv2D(
          kernel, step, padding='same', use_bias=False,
          name=f'{path}{block}dwconv')(y)
      y = _squeeze(norm(y, f'{block}bn'), path + block, channels)
      y = norm(point(y, f'{block}project_conv', n), f'{block}project_bn', None)
      if step == 1 and channels == n:
        y = x + layers.Dropout(
            drop_path * index / total, noise_shape=(None, 1, 1, 1))(y)
      x, index = y, index + 1
  return norm(point(x, 'top_conv', 1280), 'top_bn')


def _squeeze(x, path, channels):
  """Squeeze-and-excitation."""
  s = layers.GlobalAveragePooling2D(keepdims=True)(x)
  s = layers.Conv2D(max(1, channels // 4), 1, activation='swish',
                    name=f'{path}se_reduce')(s)
  s = layers.Conv2D(x.shape[-1], 1, activation='sigmoid',
                    name=f'{path}se_expand')(s)
  return x * s
