"""Where weight files are found, and fetched from."""

import hashlib
import http.server
import threading

import pytest

from vision_jax.models import spec as spec_lib
from vision_jax.pretrained import locate


@pytest.fixture(name='cache')
def _cache(tmp_path, monkeypatch):
  folder = tmp_path / 'cache'
  monkeypatch.setenv(locate.CACHE_VARIABLE, str(folder))
  return folder


def test_file_is_found_by_path_then_in_the_cache(cache):
  cache.mkdir()
  data = b'weights'
  digest = f'sha256:{hashlib.sha256(data).hexdigest()}'
  weights = spec_lib.Weights('w.h5', 'https://localhost:1/w.h5', digest)
  own = cache / 'own.h5'
  own.write_bytes(b'mine')
  assert locate.find(weights, path=own) == own
  (cache / 'w.h5').write_bytes(data)
  assert locate.find(weights) == cache / 'w.h5'
  (cache / 'w.h5').write_bytes(b'other')
  with pytest.raises(ValueError, match='w.h5.*published'):
    locate.find(weights)


def test_without_file_and_network_the_error_says_what_to_put_where(cache):
  weights = spec_lib.Weights('w.h5', 'https://localhost:1/w.h5')
  with pytest.raises(FileNotFoundError) as error:
    locate.find(weights)
  for words in ('put the file w.h5 into', str(cache), weights.url):
    assert words in str(error.value)
  weights = spec_lib.Weights('w.pth', '', package=('no_such_package', 'w.pth'))
  with pytest.raises(FileNotFoundError, match='install .* no_such_package'):
    locate.find(weights)
  with pytest.raises(FileNotFoundError, match='no weight file'):
    locate.find(weights, path=cache / 'none.h5')


class _Server(http.server.BaseHTTPRequestHandler):
  """Serves 1,000 bytes, with ranges; breaks off the first request half-way."""
  data = bytes(range(250)) * 4
  ranges = []

  def do_GET(self):
    start = self.headers['Range']
    type(self).ranges.append(start)
    begin = int(start[6:-1]) if start else 0
    self.send_response(206 if start else 200)
    self.send_header('Content-Length', str(len(self.data) - begin))
    self.end_headers()
    end = 500 if len(self.ranges) == 1 else len(self.data)
    self.wfile.write(self.data[begin:end])

  def log_message(self, *args):
    pass


def test_fetch_goes_on_where_it_broke_off(cache, monkeypatch):
  server = http.server.HTTPServer(('127.0.0.1', 0), _Server)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  real = locate.urllib.request.urlopen

  def to_local(request, timeout):
    request.full_url = f'http://127.0.0.1:{server.server_port}/w.h5'
    return real(request, timeout=timeout)

  monkeypatch.setattr(locate.urllib.request, 'urlopen', to_local)
  digest = f'sha256:{hashlib.sha256(_Server.data).hexdigest()}'
  weights = spec_lib.Weights('w.h5', 'https://example.org/w.h5', digest)
  with pytest.raises(FileNotFoundError, match='w.h5'):
    locate.find(weights)
  assert not (cache / 'w.h5').exists()
  assert locate.find(weights).read_bytes() == _Server.data
  server.shutdown()
  assert _Server.ranges == [None, 'bytes=500-']
