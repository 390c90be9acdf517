"""Threads that share a tokenizer."""

import itertools
import threading
import time

from bigrec_jax.data.text import turns


def test_texts_come_back_in_order_a_few_at_a_time():
  sizes = []

  def encode(some):
    sizes.append(len(some))
    return [[int(text)] for text in some]

  texts = [str(n) for n in range(2 * turns.AT_ONCE + 3)]
  assert turns.Turns()(texts, encode) == [[n] for n in range(len(texts))]
  assert sizes == [turns.AT_ONCE, turns.AT_ONCE, 3]
  assert turns.Turns()([], encode) == []


def test_one_text_does_not_wait_for_a_whole_catalogue():
  in_turn, begun = turns.Turns(), threading.Event()
  done, inside, most = itertools.count(), 0, 0

  def encode(some):
    nonlocal inside, most
    inside += 1
    most = max(most, inside)
    time.sleep(0.002)
    inside -= 1
    if len(some) > 1:
      next(done)
      begun.set()
    return [[0]] * len(some)

  parts = 200
  whole = threading.Thread(
    target=in_turn, args=(["a"] * (parts * turns.AT_ONCE), encode)
  )
  whole.start()
  begun.wait()
  in_turn(["b"], encode)
  before = next(done)
  whole.join()
  assert most == 1  # Never two at once.
  assert before < parts
