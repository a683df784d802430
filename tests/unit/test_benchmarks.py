"""The arithmetic of the benchmarks: what is made of the samples, of what tools say, and of compressed messages."""

import asyncio
import json
from xml.etree import ElementTree

import pytest

from benchmarks.contenders import CONTENDERS, HOME, REFERENCE
from benchmarks.drivers import Load, Target, Unable, Wrong
from benchmarks.drivers.deflate import Deflate
from benchmarks.drivers.http import Requests
from benchmarks.drivers.wrk import judged
from benchmarks.measure import counted
from benchmarks.plot import plot
from benchmarks.report import Result, as_json, ratios, reasons, share_of_core, table
from benchmarks.workloads import WORKLOADS

TITLES = {"hello": "a hello", "asgi3": "this one", "peer": "a peer", "floor": "a floor"}


def results() -> dict[str, dict[str, Result]]:
    samples = [{"rate": rate, "cpu": 50.0} for rate in (900.0, 1000.0, 5000.0)]
    slower = [{"rate": 250.0, "cpu": 200.0}]
    return {"hello": {"floor": Result(reason="is flat"), "asgi3": Result(samples), "peer": Result(slower)}}


# -- medians and ratios


def test_a_median_is_not_moved_by_one_odd_run() -> None:
    assert results()["hello"]["asgi3"].medians() == {"rate": 1000.0, "cpu": 50.0}


def test_a_metric_that_one_sample_lacks_has_no_median() -> None:
    assert Result([{"rate": 1.0, "cpu": 2.0}, {"rate": 3.0}]).medians() == {"rate": 2.0}


def test_a_contender_that_failed_once_has_no_medians() -> None:
    assert Result([{"rate": 1.0}], reason="status 500").medians() == {}


def test_a_ratio_says_how_many_times_as_much_it_is_as_the_references() -> None:
    assert ratios({"rate": 250.0, "cpu": 200.0}, {"rate": 1000.0, "cpu": 50.0}) == {"rate": 0.25, "cpu": 4.0}


def test_there_is_no_ratio_to_what_is_not_known_or_nothing() -> None:
    assert ratios({"rate": 1.0, "cpu": 1.0}, {"cpu": 0.0}) == {}


@pytest.mark.parametrize(
    ("count", "p50", "p99"),
    [(1, 1, 1), (2, 1, 2), (100, 50, 99), (101, 51, 100), (1000, 500, 990)],
)
def test_percentiles_are_of_the_nearest_rank(count: int, p50: int, p99: int) -> None:
    latencies = [float(number) for number in range(count, 0, -1)]
    assert Load.of(latencies, 2.0) == (count, 2.0, p50, p99)


# -- reports


def test_json_has_samples_medians_and_ratios_or_the_reason_why_not() -> None:
    report = json.loads(json.dumps(as_json(results(), TITLES, "asgi3")))
    of_hello = report["workloads"]["hello"]["contenders"]
    assert of_hello["peer"] == {
        "title": "a peer",
        "reason": None,
        "samples": [{"rate": 250.0, "cpu": 200.0}],
        "medians": {"rate": 250.0, "cpu": 200.0},
        "ratios": {"rate": 0.25, "cpu": 4.0},
    }
    assert of_hello["asgi3"]["ratios"] == {"rate": 1.0, "cpu": 1.0}
    assert (of_hello["floor"]["reason"], of_hello["floor"]["medians"]) == ("is flat", {})
    assert reasons(report) == ["hello: a floor: is flat"]


def test_a_table_shows_the_metrics_that_there_are_with_their_ratios() -> None:
    lines = table(as_json(results(), TITLES, "asgi3")).splitlines()
    assert [line.split() for line in lines] == [
        ["hello:", "a", "hello"],
        ["requests/s", "ratio", "CPU", "us", "ratio"],
        ["a", "floor", "-", "-", "-", "-"],
        ["this", "one", "1,000", "1.00", "50.0", "1.00"],
        ["a", "peer", "250", "0.25", "200.0", "4.00"],
    ]


def test_a_plot_has_bars_as_long_as_the_rates_and_none_for_a_floor_without_one() -> None:
    picture = ElementTree.fromstring(plot(as_json(results(), TITLES, "asgi3"), "today, <here>"))
    svg = "{http://www.w3.org/2000/svg}"
    ours, peers = (float(bar.attrib["width"]) for bar in picture.iter(f"{svg}rect"))
    assert ours == pytest.approx(4 * peers)
    texts = [text.text for text in picture.iter(f"{svg}text")]
    assert "today, <here>" in texts
    assert texts[-4:] == ["this one", "1,000", "a peer", "250"]


def test_a_plot_of_cpu_time_has_the_longer_bar_for_whoever_needs_less() -> None:
    picture = ElementTree.fromstring(plot(as_json(results(), TITLES, "asgi3"), "today", "cpu"))
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[-4:] == ["this one", "20,000", "a peer", "5,000"]


def test_what_the_servers_had_of_a_core_is_told_by_rates_and_cpu_times() -> None:
    assert share_of_core(as_json(results(), TITLES, "asgi3")) == pytest.approx(0.05)
    assert share_of_core(as_json({"hello": {"asgi3": Result([{"idle": 3.0}])}}, TITLES, "asgi3")) is None


# -- what tools say


def test_perf_s_count_is_read_and_what_it_cannot_count_is_not() -> None:
    assert counted("1234567,,instructions:u,100,100.00,,\n") == 1234567
    assert counted("Events disabled\n<not supported>,,instructions:u,0,100.00,,\n") is None


SUMMARY = {"requests": 100, "microseconds": 2_000_000, "bytes": 100 * 150, "failed": 0, "p50": 1500, "p99": 9000}


def test_wrk_s_summary_is_a_load() -> None:
    assert judged(SUMMARY, 20) == (100, 2.0, 0.0015, 0.009)


@pytest.mark.parametrize("wrong", [{"failed": 1}, {"requests": 0, "bytes": 0}, {"bytes": 100 * 19}])
def test_errors_and_short_replies_win_nothing(wrong: dict[str, int]) -> None:
    with pytest.raises(Wrong):
        judged({**SUMMARY, **wrong}, 20)


REQUESTS = Requests(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2, 5, pipelined=2, connections=3)


async def drive(reply: bytes) -> Load:
    """What the bundled driver makes of a server that answers everything with this."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(reply)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        return await REQUESTS.drive(Target(server.sockets[0].getsockname()[1]), 0)


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"


@pytest.mark.parametrize("replies", [GOOD * 2, GOOD + CHUNKED])
def test_the_bundled_driver_counts_the_replies_of_all_connections(replies: bytes) -> None:
    assert asyncio.run(drive(replies)).requests == 6


@pytest.mark.parametrize(
    ("reply", "what"),
    [
        (GOOD.replace(b"200 OK", b"500 Oh"), "status 500 with 5 bytes, not 200 with 5"),
        (GOOD.replace(b"5\r\n\r\nhello", b"4\r\n\r\nhell"), "status 200 with 4 bytes, not 200 with 5"),
        (b"hello", "not HTTP"),
    ],
)
def test_one_wrong_reply_is_enough_for_the_bundled_driver(reply: bytes, what: str) -> None:
    with pytest.raises(Wrong, match=what):
        asyncio.run(drive(GOOD + reply))


# -- compression


def test_a_message_is_compressed_as_the_rfc_shows_it() -> None:
    """RFC 7692 section 7.2.3.1."""
    deflate = Deflate("permessage-deflate; server_no_context_takeover")
    assert deflate.deflated(b"Hello").hex() == "f248cdc9c90700"
    for _ in range(2):
        assert deflate.inflated(bytes.fromhex("f248cdc9c90700")) == b"Hello"


def test_messages_that_refer_to_those_before_are_understood() -> None:
    """RFC 7692 section 7.2.3.2."""
    deflate = Deflate("permessage-deflate")
    assert deflate.inflated(bytes.fromhex("f248cdc9c90700")) == b"Hello"
    assert deflate.inflated(bytes.fromhex("f200110000")) == b"Hello"


def test_a_server_that_does_not_take_the_offer_is_unable() -> None:
    with pytest.raises(Unable, match="does not compress"):
        Deflate("")


# -- who and what


def test_names_of_workloads_and_of_contenders_differ_so_that_both_can_be_arguments() -> None:
    assert not WORKLOADS.keys() & CONTENDERS.keys()
    assert REFERENCE in CONTENDERS


def test_this_worker_can_do_every_workload_by_the_interface_that_ratios_are_taken_to() -> None:
    assert [workload for workload in WORKLOADS.values() if CONTENDERS[REFERENCE].cannot(workload)] == []


@pytest.mark.parametrize("contender", CONTENDERS)
def test_who_can_do_a_workload_has_an_application_for_it(contender: str) -> None:
    for workload in WORKLOADS.values():
        if CONTENDERS[contender].cannot(workload) is None:
            module, _, name = CONTENDERS[contender].application(workload).rpartition(":")
            source = HOME / f"{module.replace('.', '/') or 'apps/floor'}.py"
            text = source.read_text(encoding="utf-8")
            assert any(form in text for form in (f"async def {name}(", f'"{name}": ', f"\n{name} = ")), workload.name
