-- What the lab needs of wrk: requests in turn, and the result as one line of JSON.
-- The requests come in a file, separated by lines of "%%"; wrk adds nothing to them.

-- The host of its URL is what TLS is told, not where it connects to.

local requests = {}
local turn = 0

function init(args)
   local file = assert(io.open(args[1], "rb"))
   local text = file:read("*a")
   file:close()
   for request in text:gmatch("(.-)\n%%%%\n") do
      requests[#requests + 1] = request
   end
end

function wrk.resolve(_, service)
   wrk.addrs = wrk.lookup("127.0.0.1", service)
end

function request()
   turn = turn % #requests + 1
   return requests[turn]
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\nRESULT {"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"p999":%d,"max":%d,' ..
      '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
      summary.requests, summary.duration,
      latency:percentile(50), latency:percentile(99), latency:percentile(99.9), latency.max,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
