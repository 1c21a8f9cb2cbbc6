"""What the page of the characters says of its runs."""

from experiments import characters


def test_the_page_says_when_weights_are_random():
  text = {}
  for weights in ('', 'published'):
    argv = ['--root=x', f'--weights={weights}']
    args = characters._parser().parse_args(argv)
    text[weights] = characters.report(argv, args, [], [])
  assert 'VGG16 with random weights.' in text['']
  assert 'random' not in text['published']
