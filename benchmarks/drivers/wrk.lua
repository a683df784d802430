-- Sends the bytes of the file that the first argument names; says what came of it in one line of JSON.

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    sent = file:read("*a")
    file:close()
end

function request()
    return sent
end

function done(summary, latency, requests)
    local errors = summary.errors
    local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
    io.write(string.format(
        '\n{"requests": %d, "microseconds": %d, "bytes": %.0f, "failed": %d, "p50": %d, "p99": %d}\n',
        summary.requests, summary.duration, summary.bytes, failed, latency:percentile(50), latency:percentile(99)))
end
