"""The PyTorch side of the benchmark: weights, optimizers, training steps.

As good as it gets without rewriting operations: channels_last, fused
optimizers, ReLU in place, optionally torch.compile; bf16 by autocast, and on an
accelerator the fastest of cuDNN's algorithms and products in TF32, as XLA has
them. Imports PyTorch, so import this module only where the peer runs.
"""

import contextlib
import math
from typing import Any, Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils import flop_counter

from experiments import benchmark_backbones as backbones
from experiments import benchmark_equality as equality
from experiments import benchmark_networks as networks

_LAST = torch.channels_last
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


def device() -> torch.device:
  """Returns the accelerator where there is one, else the CPU."""
  return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def make_network(config, classes: int) -> nn.Module:
  """Returns the twin of the network that the config's task trains."""
  model = config.model
  size = config.data.image_size
  name = model.name
  if config.task == 'gan':
    fields = config.gan
    return networks.Chain(
        generator=networks.Generator(
            fields.latent_dims, fields.generator_features),
        discriminator=networks.Discriminator(
            fields.discriminator_features, model.dropout))
  if config.task == 'reconstruction':
    return {
        'unet': lambda: networks.UNet(model.features, model.dropout),
        'dense_autoencoder': lambda: networks.DenseAutoencoder(
            size, model.features),
        'conv_autoencoder': lambda: networks.ConvAutoencoder(model.features),
    }[name]()
  pixels = size[0] // 2 ** len(model.features)
  backbone = lambda make: networks.Chain(backbone=make())
  encoder, inputs = {
      'unet': lambda: (networks.Encoder(model.features, model.dropout),
                       pixels * pixels * model.features[-1]),
      'imbalance_cnn': lambda: (networks.imbalance_encoder(), 6 * 6 * 128),
      'vgg16': lambda: (nn.Identity(), 7 * 7 * 512),
      'efficientnet_b0': lambda: (backbone(backbones.efficientnet_b0), 1280),
      'resnet50_torch': lambda: (backbone(backbones.resnet50), 2048),
  }[name]()
  return networks.Chain(
      encoder=encoder, head=networks.Head(inputs, classes, model.head))


def copy_weights(network: nn.Module, weights: dict[str, np.ndarray]) -> None:
  """Copies arrays by path from our layout into a network of the same names.

  Raises:
    KeyError: If a tensor of the network has no array.
  """
  leaves = {'weight': ('kernel', 'scale'), 'bias': ('bias',),
            'running_mean': ('mean',), 'running_var': ('var',)}
  for path, module in network.named_modules():
    for leaf, value in (*module.named_parameters(recurse=False),
                        *module.named_buffers(recurse=False)):
      if leaf not in leaves:
        continue  # Counters and constants.
      names = [f'{path.replace(".", "/")}/{kind}' for kind in leaves[leaf]]
      name = next((n for n in names if n in weights), names[0])
      with torch.no_grad():
        value.copy_(torch.tensor(to_torch(module, leaf, weights[name])))


def to_torch(module: nn.Module, leaf: str, array: np.ndarray) -> np.ndarray:
  """Returns one of our arrays in PyTorch's layout for `module`."""
  if leaf != 'weight' or array.ndim == 1:
    return array
  if isinstance(module, nn.Linear):
    return array.T
  if isinstance(module, nn.ConvTranspose2d):
    return array[::-1, ::-1].transpose(2, 3, 0, 1).copy()
  return array.transpose(3, 2, 0, 1).copy()


def make_optimizer(config, parameters) -> torch.optim.Optimizer:
  """Returns the config's optimizer, fused where PyTorch has it so."""
  fields, parameters = config.optimizer, list(parameters)
  rates = dict(lr=fields.learning_rate)
  moments = dict(betas=(fields.b1, fields.b2), eps=fields.eps)
  return {
      'adam': lambda: torch.optim.Adam(
          parameters, **rates, **moments, fused=True),
      'adamax': lambda: torch.optim.Adamax(parameters, **rates, **moments),
      'sgd': lambda: torch.optim.SGD(
          parameters, **rates, momentum=fields.b1, fused=True),
  }[fields.name]()


def prepare(config, images: torch.Tensor) -> torch.Tensor:
  """Returns images in [0, 1] as the network takes them."""
  if config.model.name == 'efficientnet_b0':
    return images * 255
  if config.model.name == 'resnet50_torch':
    column = lambda x: torch.tensor(x, device=images.device).view(3, 1, 1)
    return (images - column(_MEAN)) / column(_DEVIATION)
  return {'unit': lambda x: x, 'signed': lambda x: 2 * x - 1,
          'pixels': lambda x: 255 * x - 127.5}[config.model.input](images)


class Peer:
  """A workload in PyTorch: `step()` trains once and returns its losses.

  Attributes:
    network: the network.
    losses: the last step's, by our names.
    gradients: the last step's where `keep` is set, by path.
  """

  def __init__(self, config, batch: dict[str, np.ndarray], *, classes: int,
               compiled: bool = False, latents: Any = None):
    self.config, self.latents = config, latents
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision('high')
    self.network = make_network(config, classes).to(
        device(), memory_format=_LAST).train()
    inputs = batch['features'] if 'features' in batch else batch['image']
    self.inputs = torch.tensor(inputs.transpose(0, 3, 1, 2)).to(
        device(), memory_format=_LAST)
    self.labels = torch.tensor(batch['label']).long().to(device())
    self.players = ([self.network.generator, self.network.discriminator]
                    if config.task == 'gan' else [self.network])
    self.optimizers = [
        make_optimizer(config, p.parameters()) for p in self.players]
    self.calls = [torch.compile(p) if compiled else p for p in self.players]
    self.gradients = None
    self.step = {'gan': self._gan, 'reconstruction': self._reconstruction,
                 'classification': self._classification}[config.task]

  def rest(self) -> None:
    """Turns dropout off and keeps gradients, for a comparison.

    It then computes in float64 where the other side has float32: in the
    latter, rounding through ResNet50's 53 BatchNorms moves gradients by .05.
    """
    self.gradients = {}
    if self.config.model.dtype == 'float32':
      self.network.double()
      self.inputs = self.inputs.double()
    for module in self.network.modules():
      if isinstance(module, nn.Dropout):
        module.p = 0.0

  def _cast(self):
    if self.config.model.dtype == 'float32':
      return contextlib.nullcontext()
    return torch.autocast(device().type, torch.bfloat16)

  def _move(self, which: int, loss: torch.Tensor) -> None:
    self.optimizers[which].zero_grad(set_to_none=True)
    loss.backward()
    if self.gradients is not None:
      name = ('generator.', 'discriminator.')[which] if len(
          self.players) > 1 else ''
      self.gradients |= {
          name + key: p.grad.clone()
          for key, p in self.players[which].named_parameters()}
    self.optimizers[which].step()

  def _classification(self):
    with self._cast():
      inputs = self.inputs
      if not isinstance(self.network.encoder, nn.Identity):
        inputs = prepare(self.config, inputs)
      logits = self.calls[0](inputs)
      loss = functional.cross_entropy(logits, self.labels)
    self._move(0, loss)
    return {'loss': loss}

  def _reconstruction(self):
    noise = self.config.noise
    images = self.inputs
    if noise.kind == 'salt_pepper':
      u = torch.rand(len(images), 1, *images.shape[2:], device=device())
      images = torch.where(u < noise.salt, 1.0, torch.where(
          u >= 1 - noise.pepper, 0.0, images))
    with self._cast():
      output = self.calls[0](prepare(self.config, images))
      loss = functional.mse_loss(output, self.inputs)
    self._move(0, loss)
    return {'loss': loss}

  def _draw(self, update: int) -> torch.Tensor:
    if self.latents is not None:
      return torch.tensor(self.latents[update]).to(self.inputs)
    return torch.randn(
        len(self.inputs), self.config.gan.latent_dims, device=device())

  def _gan(self):
    generate, judge = self.calls
    noise = self.config.gan.label_noise
    lift = lambda: noise * torch.rand(len(self.inputs), device=device())
    entropy = functional.binary_cross_entropy_with_logits
    self.network.discriminator.requires_grad_(True)
    with self._cast():
      with torch.no_grad():
        fake = generate(self._draw(0))
      real_loss = entropy(judge(2 * self.inputs - 1), 1 - lift())
      d_loss = real_loss + entropy(judge(fake), lift())
    self._move(1, d_loss)
    # The generator's update needs no gradient of these weights.
    self.network.discriminator.requires_grad_(False)
    with self._cast():
      g_loss = functional.softplus(-judge(generate(self._draw(1)))).mean()
    self._move(0, g_loss)
    return {'discriminator_loss': d_loss, 'generator_loss': g_loss}


def difference(config, arrays: dict[str, np.ndarray], *, classes: int):
  """Repeats the first step of `benchmark_workloads.first_step`.

  Returns:
    Largest relative difference of the 'loss' and of the 'gradient'.
  """
  group = equality.groups(arrays)
  latents = group['latents']
  peer = Peer(config, group['batch'], classes=classes, latents=[
      latents[str(i)] for i in range(len(latents))] or None)
  copy_weights(peer.network, group['weights'])
  peer.rest()
  losses = {name: value.item() for name, value in peer.step().items()}
  return {'loss': equality.losses(group['loss'], losses),
          'gradient': equality.gradients(
              _gradients(peer, group['moment']), config)}


def _gradients(peer: Peer, moments):
  """Yields (our moment, the peer's gradient) of each parameter."""
  for path, module in peer.network.named_modules():
    for leaf, _ in module.named_parameters(recurse=False):
      kinds = ('kernel', 'scale') if leaf == 'weight' else ('bias',)
      name = next(n for n in (f'{path.replace(".", "/")}/{k}' for k in kinds)
                  if n in moments)
      yield (to_torch(module, leaf, moments[name]),
             peer.gradients[f'{path}.{leaf}'].cpu().numpy())


def count_flops(step: Callable[[], Any]) -> int:
  """Returns floating-point operations of the products in one step.

  A multiplication and an addition are two; forward and backward.
  """
  with flop_counter.FlopCounterMode(display=False, custom_mapping={
      torch.ops.aten.convolution_backward: _count_backward}) as counter:
    step()
  return counter.get_total_flops()


def _count_backward(g, x, kernel, *others, **unused):
  """Counts both gradients of a convolution, as many each as the convolution.

  PyTorch's own count takes a kernel's gradient for one over all channels, which
  is wrong for groups: for a depthwise one, by the number of channels.
  """
  del unused
  *_, transposed, _, _, wanted = others
  pixels = math.prod((x if transposed else g)[2:])
  return 2 * g[0] * pixels * math.prod(kernel) * sum(wanted[:2])


def device_peak() -> int | None:
  """Returns the most bytes that the accelerator held; None without one."""
  if torch.cuda.is_available():
    return torch.cuda.max_memory_allocated()
  return None


def wait() -> None:
  """Waits for the device."""
  if torch.cuda.is_available():
    torch.cuda.synchronize()
