"""A tf.data service makes the batches that would be made without it, and what it does not bring is made here."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
import tensorflow as tf

import mtdnn_tf as mtdnn
from mtdnn_tf.config import config_hash
from mtdnn_tf.data import service as service_module


@pytest.fixture
def service():
    """A dispatcher with two workers, all in this process."""
    experimental = tf.data.experimental.service
    dispatcher = experimental.DispatchServer(experimental.DispatcherConfig(port=0))
    address = dispatcher.target.split("://")[1]
    workers = [experimental.WorkerServer(experimental.WorkerConfig(dispatcher_address=address)) for _ in range(2)]
    yield dispatcher, workers
    _join_threads()
    for worker in workers:
        worker._stop()
    dispatcher._stop()


def _join_threads():
    """Wait until nobody asks the service any more: TensorFlow goes on asking a dispatcher that is gone."""
    for thread in threading.enumerate():
        if thread.name == "data.service":
            thread.join(timeout=20)
            assert not thread.is_alive()


def _mixtures(experiment, target, *overrides):
    config = mtdnn.load_config(experiment, overrides)
    tasks, encoder = mtdnn.load_tasks(config), mtdnn.load_encoder(config.encoder.source)
    served = mtdnn.load_config(experiment, [*overrides, f"data.service={target}"])
    return mtdnn.build_mixture(tasks, encoder, config), mtdnn.build_mixture(tasks, encoder, served)


def _same(expected, found):
    pairs = list(itertools.zip_longest(expected, found))
    for one, other in pairs:
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    return len(pairs)


@pytest.mark.parametrize("mixing", [[], ["mixing.strategy=temperature", "mixing.temperature=3"]])
def test_batches_are_the_same_in_the_same_order(experiment, service, mixing):
    dispatcher, _ = service
    plain, served = _mixtures(experiment, dispatcher.target, *mixing)
    assert _same(plain.dataset, served.dataset) == 22
    assert _same(plain.batches(2, (0, 3)), served.batches(2, (0, 3))) == 19
    assert int(served.epoch_dataset(1, 3).cardinality()) == 8


def test_both_workers_make_batches(experiment, service):
    dispatcher, workers = service
    _, served = _mixtures(experiment, dispatcher.target, "training.epochs=40")
    assert len(list(served.dataset)) == 440
    assert all(worker._num_tasks() for worker in workers)


def test_batches_that_do_not_come_are_made_here(experiment, service, monkeypatch):
    """Every third is lost on its way, as when a worker dies."""
    dispatcher, _ = service
    plain, served = _mixtures(experiment, dispatcher.target)
    distribute = tf.data.experimental.service.distribute

    def losing(*args):
        return lambda dataset: dataset.filter(lambda position, batch: position % 3 > 0).apply(distribute(*args))

    monkeypatch.setattr(service_module.tf.data.experimental.service, "distribute", losing)
    monkeypatch.setattr(service_module, "_EARLY", 4)
    assert _same(plain.dataset, served.dataset) == 22


def test_without_a_worker_batches_are_made_here(experiment, monkeypatch, capsys):
    dispatcher = tf.data.experimental.service.DispatchServer(tf.data.experimental.service.DispatcherConfig(port=0))
    monkeypatch.setattr(service_module, "_PATIENCE", 0.5)
    plain, served = _mixtures(experiment, dispatcher.target)
    assert _same(plain.dataset, served.dataset) == 22
    assert capsys.readouterr().out.count("no batch came from grpc://localhost:") == 1
    address = dispatcher.target.split("://")[1]
    worker = tf.data.experimental.service.WorkerServer(
        tf.data.experimental.service.WorkerConfig(dispatcher_address=address)
    )
    _join_threads()
    worker._stop()
    dispatcher._stop()


def test_the_service_decides_nothing_of_a_run(experiment):
    plain, served = mtdnn.load_config(experiment), mtdnn.load_config(experiment, ["data.service=grpc://host:1"])
    assert config_hash(plain) == config_hash(served)


@pytest.mark.parametrize("address", ["host:5000", "grpc://host", "http://host:5000"])
def test_what_is_no_address_is_refused(experiment, address):
    with pytest.raises(mtdnn.UserError, match=r"data\.service: .*grpc://host:5000.*" + address):
        _mixtures(experiment, address)


def test_a_dispatcher_that_does_not_answer_is_told_at_once(experiment):
    with pytest.raises(mtdnn.UserError, match=r"data\.service: no dispatcher answers at grpc://localhost:1 "):
        _mixtures(experiment, "grpc://localhost:1")


def test_too_many_tokens_for_a_service_are_refused(service):
    with pytest.raises(mtdnn.UserError, match=r"data\.service: the tokenised tasks have 3\.0 GB"):
        service_module.check_service(service[0].target, 3_000_000_000)
